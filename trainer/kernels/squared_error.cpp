#include "trainer/kernels/squared_error.hpp"

#include "comm/bfloat16.hpp"
#include "trainer/kernels/target_clones.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kSums = 16;  // element i goes into sum i % 16, so that vectors of any width add alike

PERRIN_INLINE float load(const float* from) { return *from; }
PERRIN_INLINE float load(const BFloat16* from) { return comm::float_from_bfloat16(static_cast<std::uint16_t>(*from)); }
PERRIN_INLINE void store(float value, float* to) { *to = value; }
PERRIN_INLINE void store(float value, BFloat16* to) { *to = BFloat16{comm::bfloat16_from_float(value)}; }

template <typename T>
PERRIN_INLINE double sum_of_squares(const T* F, const float* target, std::int64_t count) {
  double sums[kSums] = {};
  const auto add = [&](std::int64_t first, std::int64_t here) __attribute__((always_inline)) {
    for (std::int64_t i = 0; i < here; ++i) {
      const auto error = static_cast<double>(load(F + first + i) - target[first + i]);
      sums[i] += error * error;
    }
  };
  std::int64_t first = 0;
  for (; count - first >= kSums; first += kSums) add(first, kSums);
  add(first, count - first);
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

template <typename T>
PERRIN_INLINE void write_gradient(const T* F, const float* target, std::int64_t count, float scale, T* gradient) {
  for (std::int64_t i = 0; i < count; ++i) store(scale * (load(F + i) - target[i]), gradient + i);
}

PERRIN_CLONES double all_squares(const float* F, const float* target, std::int64_t count) {
  return sum_of_squares(F, target, count);
}
PERRIN_CLONES double all_squares(const BFloat16* F, const float* target, std::int64_t count) {
  return sum_of_squares(F, target, count);
}
PERRIN_CLONES void all_gradients(const float* F, const float* target, std::int64_t count, float scale,
                                 float* gradient) {
  write_gradient(F, target, count, scale, gradient);
}
PERRIN_CLONES void all_gradients(const BFloat16* F, const float* target, std::int64_t count, float scale,
                                 BFloat16* gradient) {
  write_gradient(F, target, count, scale, gradient);
}

}  // namespace

template <typename T>
double squared_error(const T* F, const float* target, std::int64_t count) {
  return all_squares(F, target, count);
}

template <typename T>
void squared_error_gradient(const T* F, const float* target, std::int64_t count, float scale, T* gradient) {
  all_gradients(F, target, count, scale, gradient);
}

template double squared_error(const float*, const float*, std::int64_t);
template double squared_error(const BFloat16*, const float*, std::int64_t);
template void squared_error_gradient(const float*, const float*, std::int64_t, float, float*);
template void squared_error_gradient(const BFloat16*, const float*, std::int64_t, float, BFloat16*);

}  // namespace perrin::trainer
