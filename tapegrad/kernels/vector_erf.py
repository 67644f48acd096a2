"""Error functions as straight-line code.

erf is a polynomial up to 1 and 1 - 2**polynomial beyond. The tails that must keep their relative accuracy come from
erfcx(t) = e**(t*t) erfc(t), smooth over the whole half-line: (t + a) erfcx(t) is a polynomial in u = (t - a) / (t + a)
(the variable of Shepherd and Laframboise, Math. Comp. 36, 1981). All are minimax fits (Remez).
"""

from tapegrad.kernels.vector_exp import (
    ONE,
    TWO,
    ZERO,
    exp2_of_small,
    expm1_reduced,
    integer_of,
    power_of_two,
    reduce_exp,
    scale_shifted,
    split_integer,
)
from tapegrad.kernels.vector_primitives import (
    absolute,
    constant,
    copysign,
    elementary,
    fma,
    helper,
    muladd,
    polynomial,
    select,
)

_ERF_ONE = constant(3.95, 5.95)  # erf rounds to 1 from here on
_ERFC_ZERO = constant(12.0, 30.0)

# erf(x) / x - 1 in x**2, |x| <= 1: relative errors of erf 2**-29.6 and 2**-62.7
_ERF_SMALL = polynomial(
    [
        0.12837916612625122,
        -0.3761262595653534,
        0.1128358542919159,
        -0.026853810995817184,
        0.00518832728266716,
        -0.0008010191959328949,
        7.853857096051797e-05,
    ],
    [
        0.1283791670955126,
        -0.3761263890318375,
        0.11283791670954857,
        -0.026866170645072896,
        0.005223977624780892,
        -0.0008548326978743869,
        0.00012055331036964029,
        -1.4925593508476471e-05,
        1.6460972842566583e-06,
        -1.6350025490857465e-07,
        1.4657881613171971e-08,
        -1.1365672640762484e-09,
        5.94527272586658e-11,
    ],
)
# log2(erfc(t)), 1 <= t <= 4 and 6: absolute errors of erfc 2**-29.9 and 2**-57.1
_LOG2_ERFC = polynomial(
    [
        -0.0005103858420625329,
        -1.6259747743606567,
        -0.9207655787467957,
        -0.14865101873874664,
        0.03145819157361984,
        -0.004240896087139845,
        0.00026772028650157154,
    ],
    [
        -7.404431222973954e-07,
        -1.6278995622027543,
        -0.9184832206094501,
        -0.14816808574758566,
        0.027393957434044512,
        0.0005966019985190368,
        -0.00276844741112289,
        0.0011152602141542133,
        -0.0001970025038378584,
        -2.8168796077164803e-05,
        3.250941023329574e-05,
        -1.2376993155257388e-05,
        3.0511156128832184e-06,
        -5.331893623322566e-07,
        6.627017385311932e-08,
        -5.61233755174111e-09,
        2.9148711428531147e-10,
        -7.019204495082267e-12,
    ],
)
# (t + a) erfcx(t) in u, t <= 10.3 and 27.5: relative errors 2**-28.8 and 2**-58.1
_CENTRE = constant(3.0, 4.0)
_ERFCX = polynomial(
    [
        1.0740069150924683,
        -0.8833944797515869,
        0.5902283191680908,
        -0.3104659616947174,
        0.11952917277812958,
        -0.02684006094932556,
        -0.0012270451989024878,
        0.003080577589571476,
        -0.0004819958994630724,
        -0.00032472002203576267,
    ],
    [
        1.095995661000491,
        -0.9765487290808821,
        0.7732087022652367,
        -0.540853831313225,
        0.330851587878025,
        -0.1740109372402912,
        0.0763815149091139,
        -0.026370053334607922,
        0.006112055657170729,
        -0.00028095891584734836,
        -0.0004550526914439369,
        0.00017681308568848664,
        -3.635139397741787e-06,
        -1.886177759533118e-05,
        4.694306998182691e-06,
        1.426068189862152e-06,
        -8.459757031275189e-07,
        -7.793168612716429e-08,
        1.2392054737355142e-07,
        2.56470117856335e-09,
        -1.5395211813224958e-08,
        -3.647972174979394e-10,
        1.0238209284216142e-09,
    ],
)


@helper
def half_line(x, end):
    """Return |x|, at most ``end``; nan stays nan."""
    t = absolute(x)
    return select(t > end, end, t)


@helper
def tail(a, b, factor, error):
    """Return factor (1 + error) e**(-a*b), with the rounding error of a*b made good; may be subnormal."""
    product = a * b
    shifted, r = reduce_exp(-product)
    p = expm1_reduced(r - fma(a, b, -product))
    p = muladd(error, ONE(p) + p, p)
    return scale_shifted(muladd(p, factor, factor), shifted)


@helper
def map_half_line(t, a):
    """Return (u, v, e): u = (t - a) / (t + a), and 1 / (t + a) = v (1 + e): e is the error of sum and division."""
    total = t + a
    v = ONE(t) / total
    e = muladd(v, (total - a) - t, fma(-total, v, ONE(t)))
    u = (t - a) * v
    return muladd(u, e, u), v, e


@elementary
def erf(x):
    """Return the error function."""
    t = half_line(x, _ERF_ONE(x))
    near = muladd(t, _ERF_SMALL(t * t), t)
    shifted, r = split_integer(_LOG2_ERFC(t))
    far = ONE(t) - exp2_of_small(r) * power_of_two(integer_of(shifted))
    return copysign(select(t < ONE(t), near, far), x)


@elementary
def erfc(x):
    """Return 1 - erf(x), accurate where that is tiny."""
    t = half_line(x, _ERFC_ZERO(x))
    u, v, e = map_half_line(t, _CENTRE(t))
    y = tail(t, t, _ERFCX(u) * v, e)
    return select(x < ZERO(x), TWO(x) - y, y)
