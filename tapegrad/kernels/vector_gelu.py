"""gelu, of the normal distribution function Phi or of its approximation by tanh, as straight-line code.

gelu(x) = max(x, 0) - t Phi(-t), t = |x|, keeps the tail's relative accuracy. float64 has vector_erf's form of the
tail. float32 takes Phi(-t) = e**(-t*t/2) P(t) / Q(t), with one division in all: the fit's relative error is 2**-27, and
all coefficients are positive. Q and e**(-t*t/2) are scaled by 2**64, so that only the quotient can be subnormal.
"""

from tapegrad.kernels.vector_erf import half_line, map_half_line, tail
from tapegrad.kernels.vector_exp import ONE, ZERO, logistic_product
from tapegrad.kernels.vector_primitives import (
    bits,
    clamp,
    constant,
    elementary,
    elementary_of,
    fma,
    from_bits,
    int_add,
    integer,
    muladd,
    polynomial,
    select,
    shift_left,
)

_HALF = constant(0.5)
_GELU_ZERO = constant(16.0, 40.0)
_GELU_SCALE = constant(1.5957691669464111, 1.5957691216057308)  # 2 sqrt(2 / pi)
_GELU_SCALE_LOW = constant(-4.534068042105272e-08, -9.96930880911092e-17)
_CUBIC = constant(0.044714998453855515, 0.044715)  # 0.044715
_CUBIC_LOW = constant(1.5461444854736329e-09, 2.1960211427085595e-18)
_HALF_LOG2_E = constant(0.7213475204444817)
_TWO_LN2_HIGH = constant(1.38629150390625)  # few bits: times n it is exact
_TWO_LN2_LOW = constant(2.8572136406188344e-06)
_SHIFT = constant(1.5 * 2.0**23 + 64)  # leaves n + 64 in the low bits
_MANTISSA = integer(23, 52)
_SCALE = 2.0**64
# (e**(s/2) - 1) / s, |s| <= 0.705: relative error of e**(s/2) 2**-28.7
_EXP_HALF = polynomial(
    [0.5, 0.1249999850988388, 0.02083301916718483, 0.0026042559184134007, 0.0002617354621179402, 2.1628420654451475e-05]
)
# P(t) and Q(t), t <= 14.6: two coefficients at a time, in t*t (fewer roundings in a row than Horner's rule in t)
_P0 = polynomial([0.5761362910270691, 0.5052655339241028])
_P2 = polynomial([0.21130752563476562, 0.04687812179327011])
_P4 = constant(0.004751663189381361)
_Q0 = polynomial([1.1522725820541382 * _SCALE, 1.9299120903015137 * _SCALE])
_Q2 = polynomial([1.3863202333450317 * _SCALE, 0.5414087772369385 * _SCALE])
_Q4 = polynomial([0.11751338094472885 * _SCALE, 0.011910516768693924 * _SCALE])

# (t + a) e**(t*t/2) Phi(-t) in u, t <= 38.9: relative error 2**-57.9
_PHI_CENTRE = constant(5.625)
_PHI = polynomial(
    [],
    [
        0.7747463368642883,
        -0.689469396748793,
        0.5445305529799671,
        -0.3793680052593138,
        0.23070730075414725,
        -0.12032011607501009,
        0.05215715695041646,
        -0.017638971129297795,
        0.003904093226591538,
        -8.460869120592283e-05,
        -0.00032854769348436645,
        0.00011458815212585646,
        1.9824217943204914e-06,
        -1.3428914669094365e-05,
        2.735024755307446e-06,
        1.1595451104602517e-06,
        -5.4377263516375e-07,
        -8.686360207859956e-08,
        8.31000375460969e-08,
        7.042115485948223e-09,
        -1.0247196313580248e-08,
        -8.688456925505975e-10,
        5.799323754694849e-10,
    ],
)


def _gelu_single(x):
    t = half_line(x, _GELU_ZERO(x))
    h = t * t
    shifted = muladd(-h, _HALF_LOG2_E(h), _SHIFT(h))
    n = shifted - _SHIFT(h)
    s = fma(-n, _TWO_LN2_HIGH(h), -h) + muladd(-n, _TWO_LN2_LOW(h), -fma(t, t, -h))
    p = bits(muladd(h, muladd(h, _P4(t), _P2(t)), _P0(t)))
    numerator = from_bits(int_add(p, shift_left(bits(shifted), _MANTISSA(p))))  # P(t) 2**(n + 64)
    a = t * numerator
    y = a + muladd(a, s * _EXP_HALF(s), fma(t, numerator, -a))
    return select(x < ZERO(x), x - x, x) - y / muladd(h, muladd(h, _Q4(t), _Q2(t)), _Q0(t))


def _gelu_double(x):
    t = half_line(x, _GELU_ZERO(x))
    u, v, e = map_half_line(t, _PHI_CENTRE(t))
    return select(x < ZERO(x), x - x, x) - tail(_HALF(t) * t, t, t * v * _PHI(u), e)


@elementary_of(_gelu_single, _gelu_double)
def gelu(x):
    """Return x Phi(x), accurate where that is tiny; nan at -inf, as x Phi(x) is -inf * 0."""


@elementary
def gelu_tanh(x):
    """Return gelu's approximation x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3))) (Hendrycks and Gimpel, 2016).

    It is x / (1 + e**-z) with z = 2 sqrt(2/pi) x (1 + 0.044715 x**2): z in two parts, for the tail's relative accuracy.
    """
    b = clamp(x, -_GELU_ZERO(x), _GELU_ZERO(x))
    square = b * b
    square_low = fma(b, b, -square)
    w = muladd(_CUBIC(b), square, ONE(b))
    w_low = fma(_CUBIC(b), square, ONE(b) - w) + muladd(_CUBIC(b), square_low, _CUBIC_LOW(b) * square)
    v = _GELU_SCALE(b) * b
    v_low = fma(_GELU_SCALE(b), b, -v) + _GELU_SCALE_LOW(b) * b
    z = v * w
    return logistic_product(x, z, fma(v, w, -z) + muladd(v, w_low, v_low * w))
