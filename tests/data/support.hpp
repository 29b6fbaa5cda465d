#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "data/data_error.hpp"
#include "data/image_source.hpp"

namespace perrin::data::test {

namespace fs = std::filesystem;

/// A new empty folder, removed with all it holds.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& parent = fs::temp_directory_path()) {
    std::string pattern = parent / "perrin-data-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  const fs::path& path() const { return path_; }
  fs::path operator/(std::string_view name) const { return path_ / name; }

 private:
  fs::path path_;
};

inline std::string contents_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_contents(const fs::path& path, std::string_view contents) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  ASSERT_TRUE(file.flush());
}

inline void flip_bit(const fs::path& path, std::uint64_t byte, int bit = 0) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  char value = 0;
  file.seekg(static_cast<std::streamoff>(byte)).get(value);
  file.seekp(static_cast<std::streamoff>(byte)).put(static_cast<char>(value ^ (1 << bit)));
  ASSERT_TRUE(file.flush());
}

/// Every name below a folder, for "nothing was left behind".
inline std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

/// Runs what must fail and gives the message.
template <class Action>
std::string data_error_of(Action&& action) {
  try {
    action();
  } catch (const DataError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no DataError was thrown";
  return {};
}

/// The value of byte k of image i: any shift, swap or mix-up of images shows.
inline std::uint8_t pixel_of(std::uint64_t image, std::size_t k) {
  return static_cast<std::uint8_t>((image * 2654435761u + k * 40503u) >> 8);
}

/// A source whose pixels and labels follow from the image's number; label i % 7, every 11th image has none.
class PatternSource : public ImageSource {
 public:
  PatternSource(std::uint64_t size, ImageShape shape) : size_(size), shape_(shape) {}

  std::uint64_t size() const override { return size_; }
  ImageShape shape() const override { return shape_; }
  std::int32_t label(std::uint64_t index) const override {
    return index % 11 == 10 ? -1 : static_cast<std::int32_t>(index % 7);
  }
  std::vector<std::string> class_names() const override { return {"a", "b", "c", "d", "e", "f", "gé"}; }
  void read(std::uint64_t index, std::span<std::uint8_t> pixels) const override {
    for (std::size_t k = 0; k < pixels.size(); ++k) pixels[k] = pixel_of(index, k);
  }
  std::string kind() const override { return "pattern"; }
  std::string transform() const override { return "none"; }
  std::string digest() const override { return "pattern of " + std::to_string(size_); }

 private:
  std::uint64_t size_;
  ImageShape shape_;
};

}  // namespace perrin::data::test
