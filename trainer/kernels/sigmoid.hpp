#pragma once

namespace perrin::trainer {

/// e^-u by lanes, within 2 units in the last place for |u| < 87, beyond which u counts as 87; NaN counts as -87.
/// u = r - n ln 2, |r| <= ln 2 / 2, and e^-r is the polynomial of degree 5 with the least relative error, 1.1e-7
/// (Lawson's algorithm).
template <typename Lanes>
Lanes exp_of_negative(Lanes u) {
  constexpr float kLargest = 87.0F;    // 2^126: neither overflows nor becomes subnormal
  constexpr float kMagic = 0x1.8p23F;  // adding it rounds to an integer, which then stands in the low bits
  constexpr float kLog2E = 0x1.715476p0F, kLn2 = 0x1.62e430p-1F;
  u = Lanes::min(Lanes::max(u, Lanes::all(-kLargest)), Lanes::all(kLargest));
  const Lanes n = Lanes::fma(u, Lanes::all(-kLog2E), Lanes::all(kMagic));
  const Lanes r = Lanes::fma(n - Lanes::all(kMagic), Lanes::all(kLn2), u);
  Lanes e = Lanes::fma(r, Lanes::all(-0x1.10621ep-7F), Lanes::all(0x1.572adap-5F));
  e = Lanes::fma(e, r, Lanes::all(-0x1.5557b0p-3F));
  e = Lanes::fma(e, r, Lanes::all(0x1.fffdfap-2F));
  e = Lanes::fma(e, r, Lanes::all(-1.0F));
  e = Lanes::fma(e, r, Lanes::all(1.0F));
  return Lanes::add_to_exponent(e, n);
}

/// 1 / (1 + e^-u).
template <typename Lanes>
Lanes sigmoid(Lanes u) {
  return Lanes::all(1.0F) / (Lanes::all(1.0F) + exp_of_negative(u));
}

/// u sigmoid(u).
template <typename Lanes>
Lanes silu(Lanes u) {
  return u / (Lanes::all(1.0F) + exp_of_negative(u));
}

}  // namespace perrin::trainer
