#include "trainer/model/initialize.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <stdexcept>
#include <string_view>

#include "trainer/random/fill.hpp"

namespace perrin::trainer {
namespace {

// The position of a name: 64-bit FNV-1a folded to 48 bits. The names of one network do not collide (a test looks).
std::uint64_t position_of(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char character : name) {
    hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001b3;
  }
  return (hash ^ hash >> 48) & (kPositionLimit - 1);
}

// Linear [out, in] and convolution [out, in, kh, kw] alike.
double fan_average(const std::vector<std::int64_t>& shape) {
  double receptive_field = 1;
  for (std::size_t i = 2; i < shape.size(); ++i) {
    receptive_field *= static_cast<double>(shape[i]);
  }
  return receptive_field * static_cast<double>(shape.at(0) + shape.at(1)) / 2;
}

Stream stream_of(std::uint64_t seed) { return {.seed = seed, .purpose = Purpose::weights}; }

at::Tensor uniform(const ParameterSpec& spec, std::uint64_t seed, double limit) {
  at::Tensor values = at::empty(spec.shape, at::kFloat);
  std::vector<std::uint32_t> bits(static_cast<std::size_t>(spec.numel()));
  fill_bits(stream_of(seed), position_of(spec.name), bits);
  float* value = values.data_ptr<float>();
  for (const std::uint32_t word : bits) {
    // The middles of 2^24 equal parts of (-1, 1): symmetric, and exact in double.
    const double unit = (2.0 * (word >> 8) + 1.0) * 0x1p-24 - 1.0;
    *value++ = static_cast<float>(limit * unit);
  }
  return values;
}

at::Tensor normal(const ParameterSpec& spec, std::uint64_t seed) {
  at::Tensor values = at::empty(spec.shape, at::kFloat);
  fill_normal(stream_of(seed), position_of(spec.name),
              {values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  return values.mul_(spec.initializer.scale);
}

}  // namespace

void initialize(const ParameterSpec& spec, at::Tensor logical_view, std::uint64_t seed) {
  if (logical_view.sizes() != at::IntArrayRef(spec.shape)) {
    throw std::invalid_argument("initialize: " + spec.name + " has shape " + c10::str(at::IntArrayRef(spec.shape)) +
                                ", the tensor given has " + c10::str(logical_view.sizes()));
  }
  const at::NoGradGuard no_grad;
  switch (spec.initializer.kind) {
    case Initializer::Kind::zeros:
      logical_view.zero_();
      break;
    case Initializer::Kind::ones:
      logical_view.fill_(1);
      break;
    case Initializer::Kind::xavier_uniform:
      logical_view.copy_(uniform(spec, seed, std::sqrt(3 * spec.initializer.scale / fan_average(spec.shape))));
      break;
    case Initializer::Kind::uniform:
      logical_view.copy_(uniform(spec, seed, spec.initializer.scale));
      break;
    case Initializer::Kind::normal:
      logical_view.copy_(normal(spec, seed));
      break;
  }
}

}  // namespace perrin::trainer
