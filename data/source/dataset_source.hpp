#pragma once

#include "data/dataset.hpp"
#include "data/source/picture_source.hpp"

namespace perrin::data {

/// A dataset of perrin's own, to be written anew: with shards of another size, say. Each image is verified.
class DatasetSource : public PictureSource {
 public:
  /// @throws DataError
  explicit DatasetSource(const std::filesystem::path& folder) : dataset_(folder) {}

  std::uint64_t size() const override { return dataset_.size(); }
  Picture read(std::uint64_t index) const override;
  std::int32_t label(std::uint64_t index) const override { return dataset_.label(index); }
  std::vector<std::string> class_names() const override { return dataset_.class_names(); }
  std::string name(std::uint64_t index) const override;
  std::string kind() const override { return "dataset"; }
  std::string transform() const override { return dataset_.manifest().transform; }
  /// Of the fingerprint, which stands for every byte; reads no image.
  std::string digest() const override;

 private:
  Dataset dataset_;
};

}  // namespace perrin::data
