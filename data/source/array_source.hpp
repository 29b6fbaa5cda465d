#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/source/picture_source.hpp"

namespace perrin::data {

/// What an array of images says, before it is checked.
struct ImageArray {
  std::string kind;
  std::filesystem::path file;  // for errors
  ImageShape shape;
  std::vector<std::uint8_t> pixels;  // [n, C, H, W]
  std::vector<std::int32_t> labels;  // [n]; -1: none
  std::vector<std::string> class_names;
  std::string digest = {};  // of what the file holds; empty: of this array. Datasets are named by it: never change one
};

/// Images of equal shape, held in memory, uncompressed (47 MB for 60,000 images of 28 x 28).
class ArraySource : public PictureSource {
 public:
  /// @throws DataError for labels beyond the class names, where there are any; std::invalid_argument for sizes that
  ///         contradict each other
  explicit ArraySource(ImageArray array);

  std::uint64_t size() const override { return array_.labels.size(); }
  const ImageShape& shape() const { return array_.shape; }
  Picture read(std::uint64_t index) const override;
  std::int32_t label(std::uint64_t index) const override { return array_.labels.at(index); }
  std::vector<std::string> class_names() const override { return array_.class_names; }
  std::string name(std::uint64_t index) const override;
  std::string kind() const override { return array_.kind; }
  std::string digest() const override;

 private:
  ImageArray array_;
};

/// @throws DataError where a label is beyond the names, unless there are no names
void require_names_for(const std::filesystem::path& file, const std::vector<std::int32_t>& labels,
                       const std::vector<std::string>& class_names);

}  // namespace perrin::data
