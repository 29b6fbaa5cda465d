#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace perrin::trainer {

/// How a parameter starts.
struct Initializer {
  enum class Kind {
    zeros,
    ones,
    xavier_uniform,  ///< U(-a, a), a = sqrt(3 scale / fan_avg): variance_scaling(scale, fan_avg, uniform) of Ho et al.
                     ///< 2020
    uniform,         ///< U(-scale, scale)
    normal           ///< N(0, scale^2)
  };
  Kind kind = Kind::zeros;
  double scale = 1.0;
};

/// One parameter as the outside world sees it: diffusers' name and its logical shape (convolutions [out, in, height,
/// width]).
struct ParameterSpec {
  std::string name;
  std::vector<std::int64_t> shape;
  Initializer initializer;

  /// Number of elements.
  std::int64_t numel() const {
    std::int64_t product = 1;
    for (const std::int64_t extent : shape) {
      product *= extent;
    }
    return product;
  }
};

}  // namespace perrin::trainer
