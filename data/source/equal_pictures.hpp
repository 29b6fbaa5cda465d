#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/image_source.hpp"
#include "data/source/picture_source.hpp"
#include "data/source/transform.hpp"

namespace perrin::data {

/// What is done about an image that cannot be decoded or transformed.
enum class OnError { fail, skip };

/// Pictures of any source, transformed, as prepare() wants them: all of one shape, that of the first.
class EqualPictures : public ImageSource {
 public:
  /// @param on_error  skip: every image is decoded now, and those that fail are left out; the others are numbered anew
  /// @throws DataError for a source without images, or (unless they are skipped) a first image that fails
  EqualPictures(std::shared_ptr<const PictureSource> source, Transform transform, OnError on_error = OnError::fail);

  /// The images drawn by `seed` to be held out, and the others, in their order.
  /// @throws std::invalid_argument unless 0 < count < size()
  std::pair<EqualPictures, EqualPictures> hold_out(std::uint64_t count, std::uint64_t seed) const;

  std::uint64_t size() const override { return images_.size(); }
  ImageShape shape() const override { return shape_; }
  std::int32_t label(std::uint64_t index) const override { return source_->label(images_.at(index)); }
  std::vector<std::string> class_names() const override { return source_->class_names(); }
  /// @throws DataError naming the image, also for one of another shape than the first
  void read(std::uint64_t index, std::span<std::uint8_t> pixels) const override;
  std::string kind() const override { return source_->kind(); }
  std::string transform() const override { return transform_.description(); }
  std::string digest() const override;

  /// What was wrong with the images that were left out.
  const std::vector<std::string>& skipped() const { return skipped_; }

 private:
  Picture transformed(std::uint64_t source_index) const;
  void skip_failures();

  std::shared_ptr<const PictureSource> source_;
  Transform transform_;
  std::vector<std::uint64_t> images_;  // numbers in the source, rising
  std::vector<std::string> skipped_;
  ImageShape shape_;
};

}  // namespace perrin::data
