import assert from 'node:assert/strict'
import test from 'node:test'
import { countInputs, explain, fuzzTargets } from './fuzz.ts'

test('a fuzzer that came to its end says how many inputs it tried', () => {
  const output = '#1995843\tDONE   cov: 90 ft: 120\nDone 1995843 runs in 21 second(s)\n'
  assert.equal(countInputs(output), 1_995_843)
})

test('one that was stopped by what it found says nothing of the kind', () => {
  const output = '==8255== ERROR: libFuzzer: deadly signal\nSUMMARY: libFuzzer: deadly signal\n'
  assert.equal(countInputs(output), undefined)
})

test('what failed is told with its input and the way to repeat it', () => {
  const stderr = `#65 REDUCE cov: 20 ft: 30
thread '<unnamed>' panicked at crates/keep/src/fuzz.rs:10:5:
assertion failed: !name.is_empty()
==8255== ERROR: libFuzzer: deadly signal
    #0 0x5626
artifact_prefix='/clone/artifacts/keeper/'; Test unit written to /clone/artifacts/keeper/crash-a585
Base64: RkRT
`
  const told = explain('keeper', { code: 77, stdout: '', stderr })
  assert.match(told, /^ {6}thread .* panicked at .*\n {6}assertion failed/)
  assert.match(told, /repeat: cp \S+crash-a585 libs\S+\/corpus\/keeper\/ && /)
})

test('where there is no input to blame, all that was said is told', () => {
  assert.equal(
    explain('keeper', { code: 1, stdout: '', stderr: 'no such target\n' }),
    'no such target',
  )
})

test('the targets are found in the tree', () => {
  assert.ok(fuzzTargets().includes('headers'), fuzzTargets().join())
})
