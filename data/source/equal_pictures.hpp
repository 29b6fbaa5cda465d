#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/image_source.hpp"
#include "data/part.hpp"
#include "data/source/picture_source.hpp"
#include "data/source/transform.hpp"

namespace perrin::data {

/// A picture that cannot be decoded or transformed.
struct UnfitPicture {
  std::uint64_t index = 0;
  std::string reason;  // names it
};

/// Decodes and transforms the pictures of a part, to find those that fail.
/// @param progress  called with the pictures of this part that are done
std::vector<UnfitPicture> find_unfit(const PictureSource& source, const Transform& transform, const Part& part,
                                     const std::function<void(std::uint64_t done)>& progress);

/// Pictures of any source, transformed, as prepare() wants them: all of one shape, that of the first.
class EqualPictures : public ImageSource {
 public:
  /// @param left_out  no images of this source; the others are numbered anew
  /// @throws DataError for a source without images, or a first image that fails
  EqualPictures(std::shared_ptr<const PictureSource> source, Transform transform,
                std::span<const UnfitPicture> left_out = {});

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
  std::string transform() const override;
  std::string digest() const override;

 private:
  std::shared_ptr<const PictureSource> source_;
  Transform transform_;
  std::vector<std::uint64_t> images_;  // numbers in the source, rising
  ImageShape shape_;
};

}  // namespace perrin::data
