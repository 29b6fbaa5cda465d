#include "data/source/image_files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "data/data_error.hpp"
#include "data/sha256.hpp"
#include "data/shard_format.hpp"
#include "data/source/array_source.hpp"
#include "data/source/decode.hpp"

namespace perrin::data {
namespace {

constexpr std::string_view kLabelsFile = "dataset.json";
/// ImageNet's dataset.json has 45 MB.
constexpr std::uint64_t kMaxJsonBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kMaxEncodedBytes = std::uint64_t{1} << 30;

/// Whether some part of the path is hidden, or of what macOS adds to archives.
bool is_hidden(std::string_view name) {
  return name.starts_with('.') || name.find("/.") != std::string_view::npos || name.starts_with("__MACOSX/");
}

std::string_view top_folder_of(std::string_view name) {
  const std::size_t slash = name.find('/');
  return slash == std::string_view::npos ? std::string_view() : name.substr(0, slash);
}

}  // namespace

ImageFiles::ImageFiles(std::unique_ptr<const FileSet> files, std::vector<std::string> class_names)
    : files_(std::move(files)), class_names_(std::move(class_names)) {
  find_images();
  std::optional<std::size_t> json;
  for (std::size_t file = 0; file < files_->size(); ++file) {
    if (files_->relative_name(file) == kLabelsFile) json = file;
  }
  if (json) {
    take_labels_of_json(*json);
  } else {
    take_labels_of_folders();
  }
  require_names_for(files_->path(), labels_, class_names_);
}

void ImageFiles::find_images() {
  for (std::size_t file = 0; file < files_->size(); ++file) {
    const std::string& name = files_->relative_name(file);
    if (is_hidden(name)) continue;
    if (has_picture_ending(name)) images_.push_back(file);
    if (has_foreign_picture_ending(name)) {
      throw DataError(files_->name(file), "is an image that is neither PNG nor JPEG; convert it, or move it elsewhere");
    }
  }
  if (images_.empty()) throw DataError(files_->path(), "holds no image (.png, .jpg, .jpeg); is it the right one?");
  labels_.assign(images_.size(), kNoLabel);
}

void ImageFiles::take_labels_of_json(std::size_t file) {
  kind_ = "image files with dataset.json";
  const std::vector<std::byte> bytes = files_->read(file, kMaxJsonBytes);
  const auto refuse = [&](const std::string& why) {
    throw DataError(files_->name(file), why + R"(; it should say {"labels": [["folder/name.png", 0], ...]} or null)");
  };
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  const nlohmann::json json = nlohmann::json::parse(text, text + bytes.size(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) refuse("is no JSON object");
  const auto list = json.find("labels");
  if (list == json.end() || list->is_null()) return;
  if (!list->is_array()) refuse("'labels' is no list");
  std::unordered_map<std::string, std::size_t> place;
  for (std::size_t i = 0; i < images_.size(); ++i) place.emplace(files_->relative_name(images_[i]), i);
  for (const nlohmann::json& entry : *list) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number_integer() ||
        entry[1].get<std::int64_t>() < 0 || entry[1].get<std::int64_t>() > INT32_MAX) {
      refuse(fmt::format("entry {} is no name and class",
                         entry.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
    }
    std::string name = entry[0].get<std::string>();
    std::replace(name.begin(), name.end(), '\\', '/');
    const auto found = place.find(name);
    if (found == place.end()) {
      refuse(
          fmt::format("names {}, which is not there or there twice; the copy is incomplete or of another set", name));
    }
    labels_[found->second] = entry[1].get<std::int32_t>();
    place.erase(found);
  }
}

void ImageFiles::take_labels_of_folders() {
  std::vector<std::string> folders;  // sorted, since the files are
  for (const std::size_t image : images_) {
    const std::string_view folder = top_folder_of(files_->relative_name(image));
    if (folders.empty() || folders.back() != folder) folders.emplace_back(folder);
  }
  std::sort(folders.begin(), folders.end());
  folders.erase(std::unique(folders.begin(), folders.end()), folders.end());
  if (folders.size() <= 1) return;
  if (folders.front().empty()) {
    throw DataError(files_->path(),
                    fmt::format("has images both in folders, as {}, and beside them; folders are classes: "
                                "put every image into one, or all into one place",
                                folders[1]));
  }
  if (!class_names_.empty()) {
    throw DataError(files_->path(), "names its classes by its folders; leave --class-names out");
  }
  for (std::size_t i = 0; i < images_.size(); ++i) {
    const auto found =
        std::lower_bound(folders.begin(), folders.end(), top_folder_of(files_->relative_name(images_[i])));
    labels_[i] = static_cast<std::int32_t>(found - folders.begin());
  }
  class_names_ = std::move(folders);
}

Picture ImageFiles::read(std::uint64_t index) const {
  return decode(files_->read(images_.at(index), kMaxEncodedBytes), name(index));
}

std::string ImageFiles::digest() const {
  Sha256 hash;
  hash.update(fmt::format("{} {}\n", kind_, size()));
  for (std::size_t i = 0; i < images_.size(); ++i) {
    const std::vector<std::byte> bytes = files_->read(images_[i], kMaxEncodedBytes);
    const std::string& name = files_->relative_name(images_[i]);
    hash.update(fmt::format("{} {} {} {}\n", name.size(), name, labels_[i], bytes.size())).update(bytes);
  }
  return hash.hex();
}

}  // namespace perrin::data
