#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/image_shape.hpp"

namespace perrin::data {

/// Order of the axes of an array of images.
enum class Layout { nchw, nhwc };

/// What a user says of arrays whose names and axes could be understood in several ways.
struct ArrayOptions {
  std::string images_key, labels_key;  // empty: known by their usual names
  std::optional<Layout> layout;        // of rank 4; none: known by the number of channels
};

/// An array of images [n, H, W] (one channel), [n, C, H, W] or [n, H, W, C].
struct ImageAxes {
  std::uint64_t images = 0;
  ImageShape shape;
  Layout layout = Layout::nchw;
};

/// The axes of an array, from its extents: in rank 4 the axis of 1, 3 or 4 is that of the channels.
/// @throws DataError where both or neither could be, unless the options say it, and for implausible images
ImageAxes image_axes(const std::string& name, std::span<const std::uint64_t> extents,
                     const std::optional<Layout>& layout);

/// Which of the arrays of a file holds the images, and which the labels (none: empty).
struct ArrayKeys {
  std::string images, labels;
};

/// @param names  of all arrays in the file
/// @throws DataError where no name or several are usual ones and the options name none, or one that is not there
ArrayKeys choose_arrays(const std::filesystem::path& file, const std::vector<std::string>& names,
                        const ArrayOptions& options);

/// The same of a file that holds labels only: a lone array needs no usual name.
std::string choose_labels(const std::filesystem::path& file, const std::vector<std::string>& names,
                          const ArrayOptions& options);

/// Labels as int32. @throws DataError for one below -1 or beyond 31 bits, or another number than of images
std::vector<std::int32_t> checked_labels(const std::string& name, std::span<const std::int64_t> labels,
                                         std::uint64_t images);

}  // namespace perrin::data
