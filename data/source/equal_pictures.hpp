#pragma once

#include <memory>

#include "data/image_source.hpp"
#include "data/source/picture_source.hpp"
#include "data/source/transform.hpp"

namespace perrin::data {

/// Pictures of any source, transformed, as prepare() wants them: all of one shape, that of the first.
class EqualPictures : public ImageSource {
 public:
  /// @throws DataError for a source without images, or a first image that cannot be decoded or transformed
  EqualPictures(std::unique_ptr<const PictureSource> source, Transform transform);

  std::uint64_t size() const override { return source_->size(); }
  ImageShape shape() const override { return shape_; }
  std::int32_t label(std::uint64_t index) const override { return source_->label(index); }
  std::vector<std::string> class_names() const override { return source_->class_names(); }
  /// @throws DataError naming the image, also for one of another shape than the first
  void read(std::uint64_t index, std::span<std::uint8_t> pixels) const override;
  std::string kind() const override { return source_->kind(); }
  std::string transform() const override { return transform_.description(); }
  std::string digest() const override { return source_->digest(); }

 private:
  Picture transformed(std::uint64_t index) const;

  std::unique_ptr<const PictureSource> source_;
  Transform transform_;
  ImageShape shape_;
};

}  // namespace perrin::data
