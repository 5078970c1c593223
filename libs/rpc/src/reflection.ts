import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import type { MethodDefinition } from '@grpc/grpc-js'
import { reflectionAccess } from '@weft/access'
import { GrpcStatus } from '@weft/errors'
import { type Implementation, implement } from './types.ts'

/*
 * Server reflection (github.com/grpc/grpc/blob/master/doc/server-reflection.md), v1 and v1alpha, over the image of
 * `buf build`. Files are handed out as they stand in the image, with their lists of dependencies, which @grpc/reflection
 * loses (grpc-node #3018). Its messages are written here by hand for the same reason as those of health.
 */

/** What a client asks: one of the fields of `ServerReflectionRequest`. */
interface Question {
  /** Goes back to the client as it came. */
  readonly original: Uint8Array
  readonly kind: 'file' | 'symbol' | 'services' | 'other'
  readonly text: string
}

type ReflectionMethod = MethodDefinition<Question, Uint8Array> & {
  readonly requestStream: true
  readonly responseStream: true
}

/** A file of the image: its descriptor, and what it defines. */
interface DescribedFile {
  readonly bytes: Uint8Array
  readonly name: string
  readonly dependencies: readonly string[]
  readonly symbols: readonly string[]
}

interface Image {
  readonly files: ReadonlyMap<string, DescribedFile>
  readonly fileOfSymbol: ReadonlyMap<string, DescribedFile>
}

/** Both versions of the reflection service; they list those of the `names` that the image describes. */
export function reflection(names: readonly string[]): readonly Implementation[] {
  return ['v1', 'v1alpha'].map((version) =>
    implement(
      { serverReflectionInfo: reflectionMethod(version) },
      {
        serverReflectionInfo: async function* (questions) {
          for await (const question of questions) yield answer(question, names, image())
        },
      },
      reflectionAccess,
    ),
  )
}

let parsedImage: Image | undefined

/** Read at the first question: most servers are never asked. */
function image(): Image {
  parsedImage ??= parseImage(readFileSync(imagePath()))
  return parsedImage
}

/** A bundle has the image beside it; from source it is in the package of the generated code. */
function imagePath(): string {
  const beside = fileURLToPath(new URL('image.binpb', import.meta.url))
  return existsSync(beside) ? beside : fileURLToPath(import.meta.resolve('@weft/proto/image.binpb'))
}

/** A `ServerReflectionResponse`. */
function answer(
  question: Question,
  names: readonly string[],
  { files, fileOfSymbol }: Image,
): Uint8Array {
  const response = new BinaryWriter().uint32(tag(2)).bytes(question.original)
  switch (question.kind) {
    case 'services': {
      const list = new BinaryWriter()
      for (const name of names) list.uint32(tag(1)).fork().uint32(tag(1)).string(name).join()
      return response.uint32(tag(6)).bytes(list.finish()).finish()
    }
    case 'file':
    case 'symbol': {
      const found = (question.kind === 'file' ? files : fileOfSymbol).get(question.text)
      if (!found) return refusal(response, GrpcStatus.NotFound, `${question.text} is not known`)
      const descriptors = new BinaryWriter()
      for (const file of withDependencies(found, files))
        descriptors.uint32(tag(1)).bytes(file.bytes)
      return response.uint32(tag(4)).bytes(descriptors.finish()).finish()
    }
    case 'other':
      return refusal(response, GrpcStatus.Unimplemented, 'there are no extensions')
  }
}

function refusal(response: BinaryWriter, code: number, message: string): Uint8Array {
  const error = new BinaryWriter().uint32(8).int32(code).uint32(tag(2)).string(message)
  return response.uint32(tag(7)).bytes(error.finish()).finish()
}

function withDependencies(
  file: DescribedFile,
  files: ReadonlyMap<string, DescribedFile>,
): Set<DescribedFile> {
  const all = new Set([file])
  // A set that grows while it is iterated yields what was added.
  for (const { dependencies } of all) {
    for (const name of dependencies) {
      const dependency = files.get(name)
      if (dependency) all.add(dependency)
    }
  }
  return all
}

function reflectionMethod(version: string): ReflectionMethod {
  return {
    path: `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
    requestStream: true,
    responseStream: true,
    requestSerialize: ({ original }) => Buffer.from(original),
    requestDeserialize: parseQuestion,
    responseSerialize: (bytes) => Buffer.from(bytes),
    responseDeserialize: (bytes) => bytes,
  }
}

const QUESTION_KINDS: Readonly<Record<number, Question['kind']>> = {
  3: 'file',
  4: 'symbol',
  7: 'services',
}

function parseQuestion(bytes: Buffer): Question {
  let question: Question = { original: bytes, kind: 'other', text: '' }
  for (const { field, value } of lengthDelimitedFields(bytes)) {
    const kind = QUESTION_KINDS[field]
    if (kind) question = { original: bytes, kind, text: Buffer.from(value).toString() }
  }
  return question
}

/** A `google.protobuf.FileDescriptorSet`, of which buf's image is an extension. */
function parseImage(bytes: Uint8Array): Image {
  const files = new Map<string, DescribedFile>()
  const fileOfSymbol = new Map<string, DescribedFile>()
  for (const { field, value } of lengthDelimitedFields(bytes)) {
    if (field !== 1) continue
    const file = parseFile(value)
    files.set(file.name, file)
    for (const symbol of file.symbols) fileOfSymbol.set(symbol, file)
  }
  return { files, fileOfSymbol }
}

/** The fields of `FileDescriptorProto` by which clients look files up. */
function parseFile(bytes: Uint8Array): DescribedFile {
  const fields = [...lengthDelimitedFields(bytes)]
  const texts = (wanted: number): string[] =>
    fields.filter(({ field }) => field === wanted).map(({ value }) => Buffer.from(value).toString())
  const [packageName = ''] = texts(2)
  const symbols: string[] = []
  for (const { field, value } of fields) {
    // message_type = 4, enum_type = 5, service = 6
    if (field === 4) symbols.push(...messageSymbols(packageName, value))
    if (field === 5) symbols.push(qualified(packageName, nameOf(value)))
    if (field === 6) {
      const service = qualified(packageName, nameOf(value))
      symbols.push(service)
      for (const part of lengthDelimitedFields(value)) {
        if (part.field === 2) symbols.push(qualified(service, nameOf(part.value)))
      }
    }
  }
  return { bytes, name: texts(1)[0] ?? '', dependencies: texts(3), symbols }
}

function* messageSymbols(scope: string, bytes: Uint8Array): Generator<string> {
  const name = qualified(scope, nameOf(bytes))
  yield name
  for (const { field, value } of lengthDelimitedFields(bytes)) {
    // nested_type = 3, enum_type = 4
    if (field === 3) yield* messageSymbols(name, value)
    if (field === 4) yield qualified(name, nameOf(value))
  }
}

/** Messages, enums, services and methods all have their name as field 1. */
function nameOf(bytes: Uint8Array): string {
  for (const { field, value } of lengthDelimitedFields(bytes)) {
    if (field === 1) return Buffer.from(value).toString()
  }
  return ''
}

function qualified(scope: string, name: string): string {
  return scope === '' ? name : `${scope}.${name}`
}

function* lengthDelimitedFields(
  bytes: Uint8Array,
): Generator<{ readonly field: number; readonly value: Uint8Array }> {
  const reader = new BinaryReader(bytes)
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag()
    if (wireType === WireType.LengthDelimited) yield { field, value: reader.bytes() }
    else reader.skip(wireType, field)
  }
}

/** The tag of a length-delimited field. */
function tag(field: number): number {
  return (field << 3) | WireType.LengthDelimited
}
