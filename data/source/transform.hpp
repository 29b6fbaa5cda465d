#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "data/source/picture.hpp"

namespace perrin::data {

/// How images become square or of another shape; the public recipes of the field.
enum class Crop {
  none,
  /// The square in the middle, then Lanczos (EDM's and StyleGAN's `center-crop`).
  center,
  /// The rectangle in the middle of the wanted aspect, Lanczos, black bars above and below (`center-crop-wide`).
  center_wide,
  /// Halving with a box filter, then bicubic, then the square in the middle (ADM's, used for ImageNet).
  adm,
};

/// What becomes of opacity. An image that is opaque everywhere just loses it.
enum class Alpha { refuse, drop, black, white };

struct TransformOptions {
  Crop crop = Crop::none;
  std::uint32_t height = 0, width = 0;  // wanted; 0: as they are
  std::uint32_t channels = 0;           // 1 or 3; 0: as they are
  Alpha alpha = Alpha::refuse;
};

/// An image that a transform does not take; the message says why and what helps, the caller knows which image it was.
class TransformError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Opacity, then channels, then crop and resolution: all that is done to a decoded image, in 8-bit arithmetic that
/// gives what Pillow gives, to the bit.
class Transform {
 public:
  /// @throws std::invalid_argument for options that contradict each other
  explicit Transform(const TransformOptions& options = {});

  /// @throws TransformError
  Picture apply(Picture picture) const;
  /// For the record: equal descriptions do the same. "none" where nothing is changed.
  std::string description() const;

 private:
  TransformOptions options_;
};

}  // namespace perrin::data
