#include "data/source/array_layout.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "data/data_error.hpp"

namespace perrin::data {
namespace {

// What published sets call their arrays: numpy.savez, BigGAN, PCam, Galaxy10.
constexpr std::array<std::string_view, 5> kImageNames{"images", "imgs", "x", "data", "arr_0"};
constexpr std::array<std::string_view, 4> kLabelNames{"labels", "ans", "y", "arr_1"};

std::string choose(const std::filesystem::path& file, const std::vector<std::string>& names, const std::string& given,
                   std::span<const std::string_view> usual, std::string_view what) {
  const auto exists = [&names](std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (!given.empty()) {
    if (!exists(given)) {
      throw DataError(file, fmt::format("has no array '{}'; it has: {}", given, fmt::join(names, ", ")));
    }
    return given;
  }
  std::vector<std::string_view> found;
  std::copy_if(usual.begin(), usual.end(), std::back_inserter(found), exists);
  if (found.size() > 1) {
    throw DataError(file,
                    fmt::format("{} could be the {}; say which with --{}-key", fmt::join(found, " and "), what, what));
  }
  return found.empty() ? std::string() : std::string(found.front());
}

bool is_channels(std::uint64_t extent) { return extent == 1 || extent == 3 || extent == 4; }

Layout layout_of(const std::string& name, std::span<const std::uint64_t> extents, const std::optional<Layout>& layout) {
  if (layout) return *layout;
  const bool nchw = is_channels(extents[1]);
  const bool nhwc = is_channels(extents[3]);
  if (nchw != nhwc) return nchw ? Layout::nchw : Layout::nhwc;
  throw DataError(name, fmt::format("of shape [{}] could be {}; say --layout nchw or nhwc", fmt::join(extents, ", "),
                                    nchw ? "both channels first and channels last" : "channels first or last"));
}

}  // namespace

ImageAxes image_axes(const std::string& name, std::span<const std::uint64_t> extents,
                     const std::optional<Layout>& layout) {
  if (extents.size() != 3 && extents.size() != 4) {
    throw DataError(name, fmt::format("has shape [{}]; images have 3 axes [n, H, W] or 4", fmt::join(extents, ", ")));
  }
  std::array<std::uint64_t, 3> chw{1, extents[1], extents[2]};
  Layout found = Layout::nchw;
  if (extents.size() == 4) {
    found = layout_of(name, extents, layout);
    chw = found == Layout::nchw ? std::array{extents[1], extents[2], extents[3]}
                                : std::array{extents[3], extents[1], extents[2]};
  }
  if (extents[0] == 0 || !is_plausible(chw[0], chw[1], chw[2])) {
    throw DataError(name, fmt::format("has shape [{}], which are no images", fmt::join(extents, ", ")));
  }
  return {extents[0],
          {static_cast<std::uint32_t>(chw[0]), static_cast<std::uint32_t>(chw[1]), static_cast<std::uint32_t>(chw[2])},
          found};
}

ArrayKeys choose_arrays(const std::filesystem::path& file, const std::vector<std::string>& names,
                        const ArrayOptions& options) {
  ArrayKeys keys{choose(file, names, options.images_key, kImageNames, "images"),
                 choose(file, names, options.labels_key, kLabelNames, "labels")};
  if (keys.images.empty()) {
    throw DataError(file, fmt::format("has no array with a usual name of images ({}); it has: {}. Say which with "
                                      "--images-key",
                                      fmt::join(kImageNames, ", "), fmt::join(names, ", ")));
  }
  return keys;
}

std::string choose_labels(const std::filesystem::path& file, const std::vector<std::string>& names,
                          const ArrayOptions& options) {
  if (names.size() == 1 && options.labels_key.empty()) return names.front();
  const std::string found = choose(file, names, options.labels_key, kLabelNames, "labels");
  if (found.empty()) {
    throw DataError(file, fmt::format("has no array with a usual name of labels ({}); it has: {}. Say which with "
                                      "--labels-key",
                                      fmt::join(kLabelNames, ", "), fmt::join(names, ", ")));
  }
  return found;
}

std::vector<std::int32_t> checked_labels(const std::string& name, std::span<const std::int64_t> labels,
                                         std::uint64_t images) {
  if (labels.size() != images) {
    throw DataError(name,
                    fmt::format("has {} labels for {} images; they do not belong together", labels.size(), images));
  }
  const auto bad =
      std::find_if(labels.begin(), labels.end(), [](std::int64_t label) { return label < -1 || label > INT32_MAX; });
  if (bad != labels.end()) {
    throw DataError(
        name, fmt::format("has label {} at {}; labels are 0, 1, ..., or -1 for none", *bad, bad - labels.begin()));
  }
  return {labels.begin(), labels.end()};
}

}  // namespace perrin::data
