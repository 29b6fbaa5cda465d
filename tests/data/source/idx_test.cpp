#include "data/source/idx.hpp"

#include <zlib.h>

#include <numeric>

#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::HasSubstr;

std::string big_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

std::string idx(char type, std::initializer_list<std::uint32_t> extents, const std::string& elements) {
  std::string bytes{'\0', '\0', type, static_cast<char>(extents.size())};
  for (const std::uint32_t extent : extents) bytes += big_endian(extent);
  return bytes + elements;
}

std::string counting(std::size_t count) {
  std::string bytes(count, '\0');
  std::iota(bytes.begin(), bytes.end(), '\0');
  return bytes;
}

void write_gzip(const fs::path& path, const std::string& contents) {
  gzFile file = gzopen(path.c_str(), "wb");
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(gzwrite(file, contents.data(), static_cast<unsigned>(contents.size())), static_cast<int>(contents.size()));
  ASSERT_EQ(gzclose(file), Z_OK);
}

class Idx : public ::testing::Test {
 protected:
  void SetUp() override {
    write_contents(images_, kImages);
    write_contents(labels_, kLabels);
  }

  std::string refusal_of_images(const std::string& contents) {
    write_contents(images_, contents);
    return data_error_of([&] { read_idx_pair(images_, labels_); });
  }

  const std::string kImages = idx(0x08, {3, 2, 4}, counting(24));
  const std::string kLabels = idx(0x08, {3}, std::string("\x05\x00\x09", 3));
  const TemporaryFolder folder_;
  const fs::path images_ = folder_ / "images";
  const fs::path labels_ = folder_ / "labels";
};

TEST_F(Idx, GivesShapePixelsAndLabels) {
  const auto source = read_idx_pair(images_, labels_);
  EXPECT_EQ(source->size(), 3u);
  EXPECT_EQ(source->shape(), (ImageShape{1, 2, 4}));
  EXPECT_EQ(source->label(0), 5);
  EXPECT_EQ(source->label(2), 9);
  EXPECT_EQ(source->read(1).pixels, (std::vector<std::uint8_t>{8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_THROW(source->read(3), std::out_of_range);
}

TEST_F(Idx, IsTheSameCompressedAndPlain) {
  const std::string plain = read_idx_pair(images_, labels_)->digest();
  write_gzip(folder_ / "images.gz", kImages);
  write_gzip(folder_ / "labels.gz", kLabels);
  EXPECT_EQ(read_idx_pair(folder_ / "images.gz", folder_ / "labels.gz")->digest(), plain);
  EXPECT_EQ(read_idx_pair(folder_ / "images.gz", labels_)->digest(), plain);
}

TEST_F(Idx, ReadsFashionMnist) {
  const fs::path folder = "/usr/share/datasets/fashion-mnist";
  if (!fs::exists(folder)) GTEST_SKIP() << "Debian's package dataset-fashion-mnist is not installed";
  const auto source = read_idx_pair(folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz");
  EXPECT_EQ(source->size(), 10'000u);
  EXPECT_EQ(source->shape(), (ImageShape{1, 28, 28}));
  std::vector<int> counts(10);
  for (std::uint64_t i = 0; i < source->size(); ++i) ++counts.at(static_cast<std::size_t>(source->label(i)));
  EXPECT_THAT(counts, ::testing::Each(1000));  // the published split is balanced
}

TEST_F(Idx, RefusesEveryTruncation) {
  for (std::size_t length = 0; length < kImages.size(); ++length) {
    EXPECT_THAT(refusal_of_images(kImages.substr(0, length)), HasSubstr("images: ")) << length;
  }
}

TEST_F(Idx, RefusesEveryTruncationAndDamageOfAnArchive) {
  write_gzip(images_, kImages);
  const std::string archive = contents_of(images_);
  for (std::size_t length = 0; length < archive.size(); ++length) {
    EXPECT_THAT(refusal_of_images(archive.substr(0, length)), HasSubstr("images: ")) << length;
  }
  // Bits that gzip does not use (its time stamp, the padding after the last code) may change; nothing else may.
  write_contents(images_, archive);
  const std::string digest = read_idx_pair(images_, labels_)->digest();
  int refused = 0;
  for (std::size_t byte = 0; byte < archive.size(); ++byte) {
    std::string damaged = archive;
    damaged[byte] = static_cast<char>(damaged[byte] ^ 0x10);
    write_contents(images_, damaged);
    try {
      EXPECT_EQ(read_idx_pair(images_, labels_)->digest(), digest) << byte;
    } catch (const DataError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, static_cast<int>(archive.size()) / 2);
}

TEST_F(Idx, RefusesForeignFiles) {
  EXPECT_THAT(refusal_of_images("<!DOCTYPE html><html></html>"), HasSubstr("is not an IDX file"));
  EXPECT_THAT(refusal_of_images(idx(0x0d, {3, 2, 4}, counting(96))), HasSubstr("IDX type 0x0d"));
  EXPECT_THAT(refusal_of_images(kLabels + counting(12)), HasSubstr("are images and labels swapped?"));
  EXPECT_THAT(refusal_of_images(kImages + "x"), HasSubstr("goes on after the 24 bytes"));
}

TEST_F(Idx, RefusesImpossibleSizesBeforeAllocating) {
  const std::uint32_t most = 0xffffffff;
  EXPECT_THAT(refusal_of_images(idx(0x08, {most, most, most}, "")), HasSubstr("cannot be in this file"));
  EXPECT_THAT(refusal_of_images(idx(0x08, {most, 1, 1}, "")), HasSubstr("cannot be in this file"));
  EXPECT_THAT(refusal_of_images(idx(0x08, {0, 28, 28}, "")), HasSubstr("cannot be in this file"));
  write_gzip(images_, idx(0x08, {most, 28, 28}, ""));
  EXPECT_THAT(data_error_of([&] { read_idx_pair(images_, labels_); }), HasSubstr("cannot be in this file"));
}

TEST_F(Idx, RefusesFilesThatDoNotBelongTogether) {
  write_contents(labels_, idx(0x08, {2}, counting(2)));
  EXPECT_THAT(data_error_of([&] { read_idx_pair(images_, labels_); }), HasSubstr("2 labels for the 3 images"));
  EXPECT_THAT(data_error_of([&] { read_idx_pair(images_, folder_ / "none"); }), HasSubstr("none"));
}

TEST_F(Idx, WantsANameForEveryClass) {
  EXPECT_THAT(data_error_of([&] {
                read_idx_pair(images_, labels_, {"shirt", "coat"});
              }),
              HasSubstr("has label 9, but 2 class names"));
}

}  // namespace
}  // namespace perrin::data::test
