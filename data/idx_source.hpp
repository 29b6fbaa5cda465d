#pragma once

#include <filesystem>
#include <vector>

#include "data/image_source.hpp"

namespace perrin::data {

/// A pair of IDX files, plain or gzip, as of MNIST and its family: uint8 images of rank 3 [n, H, W] and uint8 labels
/// of rank 1 [n], after big-endian headers (http://yann.lecun.com/exdb/mnist). Held in memory, uncompressed
/// (47 MB for 60,000 images of 28 x 28).
class IdxSource : public ImageSource {
 public:
  /// @throws DataError for a wrong magic number, type, rank or size, a damaged archive, or counts that differ
  IdxSource(const std::filesystem::path& images, const std::filesystem::path& labels,
            std::vector<std::string> class_names = {});

  std::uint64_t size() const override { return labels_.size(); }
  ImageShape shape() const override { return shape_; }
  std::int32_t label(std::uint64_t index) const override { return labels_.at(index); }
  std::vector<std::string> class_names() const override { return class_names_; }
  void read(std::uint64_t index, std::span<std::uint8_t> pixels) const override;
  std::string kind() const override { return "idx"; }
  std::string digest() const override;

 private:
  ImageShape shape_;
  std::vector<std::uint8_t> pixels_;
  std::vector<std::uint8_t> labels_;
  std::vector<std::string> class_names_;
};

}  // namespace perrin::data
