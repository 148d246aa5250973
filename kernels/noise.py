# SPDX-License-Identifier: Apache-2.0
"""The noise contract of ``scoresde_fast.rng`` inside kernels, and the launch grids of noise kernels.

A call of Philox yields the noise of four neighbouring elements.  The draw, sample id and key are the same in a whole
program and stay scalar: this halves the cost of two of Philox's ten rounds and makes the key schedule free per lane.
"""

import triton
import triton.language as tl
from triton import knobs
from triton.language.extra import libdevice

# The interpreter has neither libdevice nor a fused multiply-add that rounds once.
INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def philox(call, draw, sample_id, run_seed):
    """Return the four uint32 words of the counter (call, draw, sample id low, high) under the key ``run_seed``.

    ``call`` is uint32 of any shape, ``draw`` a uint32 scalar, ``sample_id`` and ``run_seed`` int64 scalars.
    """
    c0, c1 = call, draw
    c2, c3 = sample_id.to(tl.uint32), (sample_id >> 32).to(tl.uint32)
    k0, k1 = run_seed.to(tl.uint32), (run_seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        # One instruction computes the 64-bit product; tl.umulhi and * would take two.
        product0 = c0.to(tl.uint64) * 0xD2511F53
        product1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (product1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = product1.to(tl.uint32)
        c2 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = product0.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def fused(x, y, z):
    """Return x y + z in float32, rounded once."""
    if INTERPRETED:
        return (x.to(tl.float64) * y + z).to(tl.float32)
    return tl.fma(x, y, z)


@triton.jit
def box_muller_fast(radius_word, angle_word):
    """Return two normals from two words, by the hardware's approximate functions.

    Sine and cosine (errors below 2^-20.5 in [-pi, pi] according to PTX) change a normal by at most 5.9 2^-20.5 < 4e-6.
    The logarithm (error below 2^-22) changes it by at most sqrt(2 ln 2 2^-22) < 6e-4, at radii of this size.
    """
    uniform = (radius_word >> 8).to(tl.int32).to(tl.float32) * 5.960464477539063e-08 + 2.9802322387695312e-08
    # Read as a signed integer, the word gives the same angle in (-pi, pi).
    steps = (angle_word.to(tl.int32, bitcast=True) >> 8).to(tl.float32)
    angle = steps * 3.7450703871400037e-07 + 1.8725351935700019e-07
    if INTERPRETED:
        logarithm, cosine, sine = tl.log2(uniform), tl.cos(angle), tl.sin(angle)
    else:
        logarithm = libdevice.fast_log2f(uniform)
        cosine, sine = libdevice.fast_cosf(angle), libdevice.fast_sinf(angle)
    # abs prevents a NaN if the approximate logarithm has the wrong sign; as an operand modifier it is free.
    radius = tl.sqrt(tl.abs(logarithm) * 1.3862943611198906)
    return radius * cosine, radius * sine


@triton.jit
def box_muller_precise(radius_word, angle_word):
    """Return two normals from two words, within 1.5 ulp of the exact values, in float32 arithmetic.

    Radius, cosine and sine are unevaluated sums of two floats, so that only the last addition rounds noticeably.  Sine
    and cosine use the series of the CPU kernel, truncated for float32.  Products whose rounding matters use `fused`;
    the compiler is free to contract the others.
    """
    # u = odd 2^-25 = (1 + f) 2^e with 1 + f in [sqrt(1/2), sqrt(2)): f is exact, as an integer under 2^24.
    odd = (radius_word >> 8).to(tl.int32) * 2 + 1
    e = (odd.to(tl.float32).to(tl.int32, bitcast=True) - 0x3F3504F3) >> 23
    f = (odd - (1 << e)).to(tl.float32) * ((127 - e) << 23).to(tl.float32, bitcast=True)
    # ln(1 + f) = f - (f^2/2 - s (f^2/2 + R)), s = f / (2 + f), R = 2 s^2/3 + 2 s^4/5 + ...
    s = f / (2.0 + f)
    z = s * s
    series = z * (2.0 / 3 + z * (2.0 / 5 + z * (2.0 / 7 + z * (2.0 / 9))))
    half = 0.5 * f
    square = half * f
    octaves = (e - 25).to(tl.float32)
    # 0.693145751953125 has 15 significant bits, so these multiples are exact.
    base = octaves * 0.693145751953125
    sum0 = base + f
    sum1 = fused(-half, f, sum0)
    rest = (f - (sum0 - base)) + fused(-half, f, sum0 - sum1)
    rest += s * (square + series) + octaves * 1.4286068203094172e-06
    # sqrt(-2 (sum1 + rest)) by one Newton step from the rounded square root.
    high = -2.0 * (sum1 + rest)
    low = -2.0 * (rest - ((sum1 + rest) - sum1))
    radius = tl.sqrt(high)
    radius_rest = 0.5 * (fused(-radius, radius, high) + low) / radius

    # 2 pi u1 = quarter pi / 2 + x, |x| <= pi / 4, split on integers; x = odd pi 2^-24.
    turn = (angle_word >> 8).to(tl.int32)
    quarter = (turn + (1 << 21)) >> 22
    steps = ((turn - (quarter << 22)) * 2 + 1).to(tl.float32)
    x = steps * 1.8725351935700019e-07
    x_rest = fused(steps, 1.8725351935700019e-07, -x) - steps * 5.210803755e-15
    y = x * x
    y_rest = fused(x, x, -y) + 2.0 * x * x_rest
    sine_rest = x_rest + x * y * (-1.0 / 6 + y * (1.0 / 120 + y * (-1.0 / 5040 + y * (1.0 / 362880))))
    tail = y * y * (1.0 / 24 + y * (-1.0 / 720 + y * (1.0 / 40320 + y * (-1.0 / 3628800))))
    cosine_rest = tail - 0.5 * y_rest - 0.5 * y
    odd_quarter = (quarter & 1) != 0
    first = tl.where(odd_quarter, x, 1.0)
    first_rest = tl.where(odd_quarter, sine_rest, cosine_rest)
    second = tl.where(odd_quarter, 1.0, x)
    second_rest = tl.where(odd_quarter, cosine_rest, sine_rest)
    cosine = _product(radius, radius_rest, first, first_rest)
    sine = _product(radius, radius_rest, second, second_rest)
    return tl.where(((quarter + 1) & 2) != 0, -cosine, cosine), tl.where((quarter & 2) != 0, -sine, sine)


@triton.jit
def _product(a, a_rest, b, b_rest):
    """Return (a + a_rest) (b + b_rest) with about one rounding."""
    return fused(a, b, a * b_rest + a_rest * (b + b_rest))


@triton.jit
def join4(w0, w1, w2, w3):
    """Join four tensors [N] to one [N, 4]; each row is in the registers of one thread."""
    pairs = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [N, 2, 2]
    return tl.reshape(pairs, [w0.shape[0], 4])


@triton.jit
def join8(w0, w1, w2, w3, w4, w5, w6, w7):
    """Join eight tensors [N] to one [N, 8]; each row is in the registers of one thread."""
    even = tl.join(tl.join(w0, w4), tl.join(w2, w6))  # [N, 2, 2]
    odd = tl.join(tl.join(w1, w5), tl.join(w3, w7))
    return tl.reshape(tl.join(even, odd), [w0.shape[0], 8])


@triton.jit
def normal4(call, draw, sample_id, run_seed, PRECISE: tl.constexpr):
    """Return the four normals of each call."""
    w0, w1, w2, w3 = philox(call, draw, sample_id, run_seed)
    if PRECISE:
        z0, z1 = box_muller_precise(w0, w1)
        z2, z3 = box_muller_precise(w2, w3)
    else:
        z0, z1 = box_muller_fast(w0, w1)
        z2, z3 = box_muller_fast(w2, w3)
    return z0, z1, z2, z3


@triton.jit
def normals_from(call, draw, sample_id, run_seed, SHIFT: tl.constexpr, PRECISE: tl.constexpr):
    """Return the normals of elements 4 call + SHIFT to 4 call + SHIFT + 3, [N, 4]."""
    z0, z1, z2, z3 = normal4(call.to(tl.uint32), draw, sample_id, run_seed, PRECISE)
    if SHIFT != 0:
        z4, z5, z6, _z7 = normal4((call + 1).to(tl.uint32), draw, sample_id, run_seed, PRECISE)
        if SHIFT == 1:
            z0, z1, z2, z3 = z1, z2, z3, z4
        elif SHIFT == 2:
            z0, z1, z2, z3 = z2, z3, z4, z5
        else:
            z0, z1, z2, z3 = z3, z4, z5, z6
    return join4(z0, z1, z2, z3)


@triton.jit
def sign4(call, draw, sample_id, run_seed):
    """Return the four signs of each call: 1.0 with the top bit of the element's word as its sign bit."""
    w0, w1, w2, w3 = philox(call, draw, sample_id, run_seed)
    return _sign(w0), _sign(w1), _sign(w2), _sign(w3)


@triton.jit
def _sign(word):
    return ((word & 0x80000000) | 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit
def sample_block(i_program, ELEMENTS: tl.constexpr, CALLS: tl.constexpr):
    """Return the block of elements of a program that makes ``CALLS`` calls for one sample.

    Returns the sample index (int64 scalar), the call indices [CALLS], the elements' offsets in the tensor of all
    samples [CALLS, 4] int64, and the mask of existing elements, [CALLS, 4] or [CALLS, 1].
    """
    BLOCKS: tl.constexpr = (ELEMENTS + 4 * CALLS - 1) // (4 * CALLS)
    i_sample = (i_program // BLOCKS).to(tl.int64)
    i_call = (i_program % BLOCKS).to(tl.int64) * CALLS + tl.arange(0, CALLS)
    i_element = i_call[:, None] * 4 + tl.arange(0, 4)[None, :]
    return i_sample, i_call, i_sample * ELEMENTS + i_element, element_mask(i_call, i_element, ELEMENTS, 4 * CALLS)


@triton.jit
def element_mask(i_row, i_element, ELEMENTS: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr = 4):
    """Return the mask of existing elements, for programs of ``SPAN``: [N, WIDTH], or [N, 1] if all rows are whole."""
    if ELEMENTS > 0 and ELEMENTS % SPAN == 0:
        return tl.full([i_row.shape[0], 1], True, tl.int1)
    elif ELEMENTS % WIDTH == 0:
        return (i_row * WIDTH < ELEMENTS)[:, None]
    else:
        return i_element < ELEMENTS


def tile(elements: int) -> tuple[int, int, int]:
    """Return (calls per program, programs per sample, warps): 16 elements per thread unless many threads would idle."""
    calls = max(1, -(-elements // 4))
    size = next((size for size in (256, 128) if -calls % size <= calls // 8), 64)
    return size, -(-calls // size), max(1, size // 128)


def passes(elements: int) -> tuple[int, int]:
    """Return (passes, programs per sample) of a sum over a sample; a pass has 1024 elements, a program 1 to 4."""
    blocks = max(1, -(-elements // 1024))
    return min(blocks, 4), -(-blocks // 4)
