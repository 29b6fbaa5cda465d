#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/source/file_set.hpp"
#include "data/source/picture_source.hpp"

namespace perrin::data {

/// PNG and JPEG files in a folder or zip archive, sorted by name, decoded when they are read. Labels are those of
/// dataset.json, as EDM and StyleGAN write it, {"labels": [["00000/img0.png", 6], ...]} or null; without that file they
/// are the places of the top-level folders' sorted names, which become the class names, or none if there is but one.
/// Files of other kinds (texts, tables) are no images and are left alone.
class ImageFiles : public PictureSource {
 public:
  /// @param class_names  where the source has none of its own
  /// @throws DataError for no images, images of formats that are not read, images both in folders and beside them, a
  ///         dataset.json that cannot be understood or names images that are not there
  ImageFiles(std::unique_ptr<const FileSet> files, std::vector<std::string> class_names);

  std::uint64_t size() const override { return images_.size(); }
  Picture read(std::uint64_t index) const override;
  std::int32_t label(std::uint64_t index) const override { return labels_.at(index); }
  std::vector<std::string> class_names() const override { return class_names_; }
  std::string name(std::uint64_t index) const override { return files_->name(images_.at(index)); }
  std::string kind() const override { return kind_; }
  /// Over names, labels and the files' bytes: reads all of them.
  std::string digest() const override;

 private:
  void find_images();
  void take_labels_of_json(std::size_t file);
  void take_labels_of_folders();

  std::unique_ptr<const FileSet> files_;
  std::vector<std::size_t> images_;  // which of the files
  std::vector<std::int32_t> labels_;
  std::vector<std::string> class_names_;
  std::string kind_ = "image files";
};

}  // namespace perrin::data
