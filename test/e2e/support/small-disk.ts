import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { mustRun, run } from '../../support/place.ts'
import { PrivateFolder } from './members.ts'

const SIZE = '64M'
const FILL = '.fill'

/**
 * A folder of a process on a file system of its own, small enough to be filled. The process has to be stopped while it is put
 * there and taken away.
 */
export class SmallDisk {
  readonly #folder: string
  readonly #image: PrivateFolder

  private constructor(folder: string, image: PrivateFolder) {
    this.#folder = folder
    this.#image = image
  }

  /** Moves what is in the folder to a new file system that is mounted over it. */
  static async mount(folder: string): Promise<SmallDisk> {
    const place = new PrivateFolder()
    const image = join(place.path, 'image')
    const beside = join(place.path, 'beside')
    await mustRun(['truncate', '--size', SIZE, image])
    await mustRun(['mkfs.ext4', '-q', '-m', '0', image])
    await mustRun(['cp', '--archive', folder, beside])
    await mustRun(['mount', '--options', 'loop', image, folder])
    await mustRun(['cp', '--archive', `${beside}/.`, folder])
    return new SmallDisk(folder, place)
  }

  /** Takes all the space that is left, to the last block. */
  async fill(): Promise<void> {
    for (const [size, name] of [
      ['1M', 'large'],
      ['1k', 'small'],
    ]) {
      // It ends with an error when nothing is left.
      await run(['dd', 'if=/dev/zero', `of=${this.#folder}/${FILL}-${name}`, `bs=${size}`])
    }
  }

  /** Gives the space back. */
  free(): void {
    for (const name of ['large', 'small'])
      rmSync(`${this.#folder}/${FILL}-${name}`, { force: true })
  }

  /** Lets nobody write to what is there, not even who has it open. */
  async seal(): Promise<void> {
    await mustRun(['chattr', '-R', '+i', this.#folder])
  }

  async unseal(): Promise<void> {
    await mustRun(['chattr', '-R', '-i', this.#folder])
  }

  /** Moves what is in the folder back to where it was, and takes the file system away. */
  async remove(): Promise<void> {
    await this.unseal()
    this.free()
    const after = join(this.#image.path, 'after')
    await mustRun(['cp', '--archive', this.#folder, after])
    await mustRun(['umount', this.#folder])
    rmSync(join(after, 'lost+found'), { recursive: true, force: true })
    await mustRun(['find', this.#folder, '-mindepth', '1', '-delete'])
    await mustRun(['cp', '--archive', `${after}/.`, this.#folder])
    this.#image[Symbol.dispose]()
  }
}
