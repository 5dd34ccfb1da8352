"""SipHash (Aumasson and Bernstein 2012), after the paper."""

MASK = 2**64 - 1


def siphash(key: bytes, data: bytes, rounds: tuple[int, int]) -> int:
    """Return the SipHash-c-d of `data` for rounds (c, d)."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        for _ in range(rounds[0]):
            sip_round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(rounds[1]):
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def sip_round(v: list[int]) -> None:
    for a, b, c, d, left, right in ((0, 1, 2, 3, 13, 16), (2, 1, 0, 3, 17, 21)):
        v[a] = (v[a] + v[b]) & MASK
        v[c] = (v[c] + v[d]) & MASK
        v[b] = rotate(v[b], left) ^ v[a]
        v[d] = rotate(v[d], right) ^ v[c]
        v[a] = rotate(v[a], 32)


def rotate(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (64 - bits))) & MASK
