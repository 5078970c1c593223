import assert from 'node:assert/strict'
import test from 'node:test'
import { arpReply, type Ends, neighbourAdvertisement, udp4, udp6 } from './frames.ts'

const ends4: Ends = {
  sourceMac: '02:00:00:00:00:01',
  targetMac: '02:00:00:00:00:02',
  source: '10.0.0.1',
  target: '10.0.0.2',
}
const ends6: Ends = { ...ends4, source: 'fd00::1', target: 'fd00::2' }

/** Ones' complement sum of a row of 16-bit words; 0xffff where a checksum inside is right. */
function sum(digits: string): number {
  let total = 0
  for (let at = 0; at < digits.length; at += 4)
    total += Number.parseInt(digits.slice(at, at + 4).padEnd(4, '0'), 16)
  while (total > 0xffff) total = (total & 0xffff) + (total >> 16)
  return total
}

test('an IPv4 header carries a checksum that verifies', () => {
  assert.equal(sum(udp4(ends4, 'hello').slice(28, 68)), 0xffff)
})

test('messages over IPv6 carry checksums that verify with the pseudo header', () => {
  for (const frame of [udp6(ends6, 'four'), neighbourAdvertisement(ends6, 'fd00::9')]) {
    const header = frame.slice(28, 108)
    const payload = frame.slice(108)
    const protocol = header.slice(12, 14)
    const pseudo = `${header.slice(16)}0000${header.slice(8, 12)}000000${protocol}`
    assert.equal(sum(pseudo + payload), 0xffff)
  }
})

test('an ARP reply names who claims what', () => {
  assert.equal(
    arpReply(ends4, '02:00:00:00:00:09'),
    '020000000002020000000001080600010800060400020200000000090a0000010200000000020a000002',
  )
})
