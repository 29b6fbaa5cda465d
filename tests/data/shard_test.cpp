#include <sys/file.h>

#include <cstdlib>

#include "data/shard_reader.hpp"
#include "data/shard_writer.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::HasSubstr;

constexpr ImageShape kShape{3, 5, 4};
constexpr std::uint64_t kImages = 37;

ShardAttributes some_attributes() { return {"some-uuid", 2, 5, {"cat", "chat noir é"}, "a test", "none", 77}; }

void write_shard(const fs::path& path, std::uint64_t images = kImages, ImageShape shape = kShape) {
  const PatternSource source(images, shape);
  std::vector<std::int32_t> labels;
  std::vector<std::uint64_t> source_ids;
  std::vector<std::uint8_t> pixels(images * shape.bytes());
  for (std::uint64_t i = 0; i < images; ++i) {
    labels.push_back(source.label(i));
    source_ids.push_back(1'000'000'000'000 + i);
    source.read(i, std::span(pixels).subspan(i * shape.bytes(), shape.bytes()));
  }
  ShardWriter writer(path, shape, labels, source_ids, some_attributes());
  writer.write(1, std::span(pixels).subspan(shape.bytes()));  // in any order
  writer.write(0, std::span(pixels).first(shape.bytes()));
  writer.finish();
}

TEST(Shard, GivesBackWhatWasWritten) {
  const TemporaryFolder folder;
  write_shard(folder / "s.h5");
  const ShardReader shard(folder / "s.h5");
  ASSERT_EQ(shard.size(), kImages);
  EXPECT_EQ(shard.shape(), kShape);
  EXPECT_EQ(shard.attributes().dataset_uuid, "some-uuid");
  EXPECT_EQ(shard.attributes().shard_index, 2u);
  EXPECT_EQ(shard.attributes().num_shards, 5u);
  EXPECT_EQ(shard.attributes().class_names, some_attributes().class_names);
  EXPECT_EQ(shard.attributes().converter, "a test");
  EXPECT_EQ(shard.attributes().shuffle_seed, 77u);
  const PatternSource source(kImages, kShape);
  std::vector<std::uint8_t> expected(kShape.bytes());
  std::vector<std::uint8_t> pixels(kShape.bytes());
  for (std::uint64_t i = 0; i < kImages; ++i) {
    source.read(i, expected);
    shard.read(i, 1, pixels);
    ASSERT_EQ(pixels, expected) << i;
    EXPECT_EQ(shard.label(i), source.label(i));
    EXPECT_EQ(shard.source_id(i), 1'000'000'000'000 + i);
  }
  EXPECT_THROW(shard.read(kImages, 1, pixels), std::out_of_range);
  EXPECT_THROW(shard.read(0, 2, pixels), std::invalid_argument);
  EXPECT_THROW(shard.source_id(kImages), std::out_of_range);
  EXPECT_THROW(shard.label(kImages), std::out_of_range);
}

TEST(Shard, AlignsImagesAndWastesLittle) {
  const TemporaryFolder folder;
  write_shard(folder / "tiny.h5", 1, {1, 1, 1});
  write_shard(folder / "small.h5", 80, kShape);  // 4,800 bytes of images
  write_shard(folder / "large.h5", 500, {3, 32, 32});
  EXPECT_LT(fs::file_size(folder / "tiny.h5"), 16 * 1024u);
  for (const char* name : {"small.h5", "large.h5"}) {
    const ShardReader shard(folder / name);
    EXPECT_EQ(shard.layout().images_offset % kImageAlignmentBytes, 0u) << name;
    EXPECT_LT(fs::file_size(folder / name), 3 * kImageAlignmentBytes) << name;
  }
}

TEST(Shard, EveryFlippedBitOfAnImageNamesItsImage) {
  const TemporaryFolder folder;
  write_shard(folder / "s.h5");
  const std::uint64_t start = ShardReader(folder / "s.h5").layout().images_offset;
  std::vector<std::uint8_t> pixels(kShape.bytes());
  for (std::uint64_t byte = 0; byte < kImages * kShape.bytes(); byte += 7) {
    const int bit = static_cast<int>(byte % 8);
    flip_bit(folder / "s.h5", start + byte, bit);
    const std::uint64_t image = byte / kShape.bytes();
    const ShardReader shard(folder / "s.h5");
    EXPECT_THAT(data_error_of([&] { shard.read(image, 1, pixels); }),
                AllOf(HasSubstr("s.h5"), HasSubstr("image " + std::to_string(image) + " fails its checksum (stored "),
                      HasSubstr(", read "), HasSubstr("restore it")));
    EXPECT_NO_THROW(shard.read((image + 1) % kImages, 1, pixels));
    flip_bit(folder / "s.h5", start + byte, bit);
  }
}

TEST(Shard, AFlippedBitInATableIsFound) {
  const TemporaryFolder folder;
  write_shard(folder / "s.h5");
  const ShardLayout layout = ShardReader(folder / "s.h5").layout();
  const auto refusal_with_flip_at = [&](std::uint64_t byte) {
    flip_bit(folder / "s.h5", byte);
    const std::string message = data_error_of([&] {
      const ShardReader shard(folder / "s.h5");
      std::vector<std::uint8_t> pixels(kShape.bytes());
      shard.read(3, 1, pixels);
    });
    flip_bit(folder / "s.h5", byte);
    return message;
  };
  EXPECT_THAT(refusal_with_flip_at(layout.labels_offset + 5), HasSubstr("/labels fails its checksum"));
  EXPECT_THAT(refusal_with_flip_at(layout.source_id_offset + 5), HasSubstr("/source_id fails its checksum"));
  EXPECT_THAT(refusal_with_flip_at(layout.crc32c_offset + 3 * 4), HasSubstr("image 3 fails its checksum"));
}

TEST(Shard, ATruncatedFileSaysBothSizes) {
  const TemporaryFolder folder;
  write_shard(folder / "s.h5");
  const std::uint64_t size = fs::file_size(folder / "s.h5");
  for (const std::uint64_t kept : {size - 1, size / 2, std::uint64_t{2048}, std::uint64_t{100}, std::uint64_t{8},
                                   std::uint64_t{7}, std::uint64_t{1}, std::uint64_t{0}}) {
    fs::resize_file(folder / "s.h5", kept);
    if (kept > 0) {
      EXPECT_THAT(data_error_of([&] { ShardReader shard(folder / "s.h5", ExpectedShard{.bytes = size}); }),
                  HasSubstr("has " + std::to_string(kept) + " of " + std::to_string(size) + " bytes; it is truncated"));
    }
    EXPECT_THAT(data_error_of([&] { ShardReader shard(folder / "s.h5"); }), HasSubstr("s.h5: ")) << kept;
  }
}

TEST(Shard, ShrinkingUnderAReaderIsAnErrorNotACrash) {
  const TemporaryFolder folder;
  write_shard(folder / "s.h5");
  const ShardReader mapped(folder / "s.h5"), system_calls(folder / "s.h5", std::nullopt, ReadMethod::pread);
  std::vector<std::uint8_t> pixels(kShape.bytes());
  const std::uint64_t images = mapped.layout().images_offset;
  fs::resize_file(folder / "s.h5", images + 10 * kShape.bytes());
  for (const ShardReader* shard : {&mapped, &system_calls}) {
    EXPECT_NO_THROW(shard->read(9, 1, pixels));
    EXPECT_THAT(data_error_of([&] { shard->read(10, 1, pixels); }), HasSubstr("truncated"));
  }
  fs::resize_file(folder / "s.h5", 0);  // no page of it is left
  for (const ShardReader* shard : {&mapped, &system_calls})
    EXPECT_THAT(data_error_of([&] { shard->read(0, 1, pixels); }), HasSubstr("truncated"));
}

TEST(Shard, NothingIsOverwritten) {
  const TemporaryFolder folder;
  write_contents(folder / "s.h5", "precious");
  EXPECT_THAT(data_error_of([&] { write_shard(folder / "s.h5"); }), HasSubstr("cannot create"));
  EXPECT_EQ(contents_of(folder / "s.h5"), "precious");
}

TEST(Shard, MissingImagesAreNotedAtTheEnd) {
  const TemporaryFolder folder;
  const std::vector<std::int32_t> labels(2);
  const std::vector<std::uint64_t> ids(2);
  const std::vector<std::uint8_t> pixels(3 * kShape.bytes());
  ShardWriter writer(folder / "s.h5", kShape, labels, ids, some_attributes());
  EXPECT_THROW(writer.write(0, std::span(pixels).first(kShape.bytes() + 1)), std::invalid_argument);
  EXPECT_THROW(writer.write(0, pixels), std::invalid_argument);
  EXPECT_THROW(writer.write(2, std::span(pixels).first(kShape.bytes())), std::invalid_argument);
  writer.write(1, std::span(pixels).first(kShape.bytes()));
  EXPECT_THROW(writer.finish(), std::logic_error);
  writer.write(0, std::span(pixels).first(kShape.bytes()));
  writer.finish();
}

TEST(ShardDeathTest, OpensWhereHdf5IsToldToLockAndCannot) {
  const TemporaryFolder folder;
  write_shard(folder / "s.h5");
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a fresh process, since HDF5 reads the variable only once
  const auto open_locked_file = [&] {
    // The folder of the re-executed test is another one: make what is needed here.
    const TemporaryFolder inner;
    ::setenv("HDF5_USE_FILE_LOCKING", "TRUE", 1);
    write_shard(inner / "s.h5");
    const File holder = File::open_for_reading(inner / "s.h5");
    if (::flock(holder.descriptor(), LOCK_EX | LOCK_NB) != 0) std::_Exit(3);
    try {
      const ShardReader shard(inner / "s.h5");
    } catch (const DataError&) {
      std::_Exit(4);
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(open_locked_file(), ::testing::ExitedWithCode(0), "");
}

TEST(Shard, LeavesHdf5sErrorReportAndFilesAlone) {
  const TemporaryFolder folder;
  write_shard(folder / "s.h5");
  const auto descriptors = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  };
  const auto before = descriptors();
  fs::resize_file(folder / "s.h5", 3000);
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 10; ++i) EXPECT_THROW(ShardReader(folder / "s.h5"), DataError);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(descriptors(), before);
}

}  // namespace
}  // namespace perrin::data::test
