#include "data/dataset.hpp"

#include "data/file.hpp"
#include "data/prepare.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::HasSubstr;

constexpr ImageShape kShape{3, 4, 5};
constexpr std::uint64_t kImages = 50;

/// Five shards of 12, the last of 2.
class DatasetFolder : public ::testing::Test {
 protected:
  DatasetFolder() { prepare(source_, {.output = path_, .shard_images = 12, .shuffle_seed = 4}); }

  std::string refusal() {
    return data_error_of([&] { Dataset dataset(path_); });
  }

  std::string refusal_with(const std::string& text, const std::string& replacement) {
    const std::string good = contents_of(path_ / "manifest.json");
    const std::size_t place = good.find(text);
    EXPECT_NE(place, std::string::npos) << text;
    write_contents(path_ / "manifest.json", std::string(good).replace(place, text.size(), replacement));
    const std::string message = refusal();
    write_contents(path_ / "manifest.json", good);
    EXPECT_THAT(message, HasSubstr("manifest.json: "));
    return message;
  }

  /// As manifests were before they told of the shards' metadata; other programs may still write such.
  void forget_metadata() {
    Manifest manifest = read_manifest(path_);
    for (ShardEntry& shard : manifest.shards) shard.metadata = {};
    write_contents(path_ / "manifest.json", to_json(manifest));
  }

  const PatternSource source_{kImages, kShape};
  const TemporaryFolder folder_;
  const fs::path path_ = folder_ / "set";
};

TEST_F(DatasetFolder, IsOneSequenceAcrossItsShards) {
  const Dataset dataset(path_);
  ASSERT_EQ(dataset.size(), kImages);
  EXPECT_EQ(dataset.shape(), kShape);
  EXPECT_EQ(dataset.manifest().shards.size(), 5u);
  std::vector<std::uint8_t> all(kImages * kShape.bytes());
  dataset.read(0, kImages, all);
  std::vector<std::uint8_t> pixels(kShape.bytes());
  std::vector<std::uint8_t> expected(kShape.bytes());
  for (std::uint64_t i = 0; i < kImages; ++i) {
    dataset.read(i, pixels);
    source_.read(dataset.source_id(i), expected);
    EXPECT_EQ(pixels, expected);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), all.begin() + static_cast<long>(i * kShape.bytes())));
    EXPECT_EQ(dataset.label(i), source_.label(dataset.source_id(i)));
  }
  EXPECT_THROW(dataset.read(kImages, pixels), std::out_of_range);
  EXPECT_THROW(dataset.read(1, UINT64_MAX, pixels), std::out_of_range);
  EXPECT_THROW(dataset.label(kImages), std::out_of_range);
}

TEST_F(DatasetFolder, GathersAnySamplesByEitherMethod) {
  const std::vector<std::uint64_t> samples = {49, 11, 12, 13, 0, 0, 1, 30, 29};  // runs, repeats, borders of shards
  std::vector<std::uint8_t> pixels(samples.size() * kShape.bytes()), expected(kShape.bytes());
  for (const ReadMethod method : {ReadMethod::mmap, ReadMethod::pread}) {
    const Dataset dataset(path_, {.read = method, .warm_up = true});
    std::fill(pixels.begin(), pixels.end(), 0);
    dataset.gather(samples, pixels);
    for (std::size_t i = 0; i < samples.size(); ++i) {
      source_.read(dataset.source_id(samples[i]), expected);
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(),
                             pixels.begin() + static_cast<std::ptrdiff_t>(i * kShape.bytes())));
    }
    EXPECT_THROW(dataset.gather(samples, std::span(pixels).first(5)), std::invalid_argument);
    EXPECT_THROW(dataset.gather(std::vector<std::uint64_t>{1, kImages}, std::span(pixels).first(2 * kShape.bytes())),
                 std::out_of_range);
  }
}

TEST_F(DatasetFolder, AMissingShardIsNamed) {
  fs::remove(path_ / "shard-00003.h5");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("shard-00003.h5: is missing"), HasSubstr("bytes by the manifest")));
}

TEST_F(DatasetFolder, ATruncatedShardIsNamedWithBothSizes) {
  fs::resize_file(path_ / "shard-00001.h5", 1000);
  EXPECT_THAT(refusal(), AllOf(HasSubstr("shard-00001.h5: has 1000 of "), HasSubstr("truncated")));
}

TEST_F(DatasetFolder, SwappedShardsAreFound) {
  fs::rename(path_ / "shard-00000.h5", folder_ / "x");
  fs::rename(path_ / "shard-00001.h5", path_ / "shard-00000.h5");
  fs::rename(folder_ / "x", path_ / "shard-00001.h5");
  EXPECT_THAT(refusal(), HasSubstr("shard-00000.h5: is damaged outside its pixels, or is another shard"));
  forget_metadata();
  EXPECT_THAT(refusal(), HasSubstr("is shard 1 of 5, where shard 0 of 5 belongs"));
}

TEST_F(DatasetFolder, AShardOfAnotherDataSetIsFound) {
  prepare(source_, {.output = folder_ / "other", .shard_images = 12, .shuffle_seed = 5});
  fs::copy_file(folder_ / "other/shard-00002.h5", path_ / "shard-00002.h5", fs::copy_options::overwrite_existing);
  EXPECT_THAT(refusal(), HasSubstr("shard-00002.h5: is damaged outside its pixels, or is another shard"));
  forget_metadata();
  EXPECT_THAT(refusal(), HasSubstr("shard-00002.h5: belongs to dataset "));
}

TEST_F(DatasetFolder, ASymbolicLinkInPlaceOfAShardIsRefused) {
  fs::rename(path_ / "shard-00000.h5", folder_ / "real.h5");
  fs::create_symlink(folder_ / "real.h5", path_ / "shard-00000.h5");
  EXPECT_THAT(refusal(), HasSubstr("symbolic links"));
}

TEST_F(DatasetFolder, SaysWhatAFolderLacks) {
  EXPECT_THAT(data_error_of([&] { Dataset dataset(folder_ / "none"); }), HasSubstr("is not a folder"));
  EXPECT_THAT(data_error_of([&] { Dataset dataset(folder_.path()); }), HasSubstr("has no manifest.json"));
}

TEST_F(DatasetFolder, EveryWrongManifestIsRefusedByKey) {
  EXPECT_THAT(refusal_with("\"n\": 50", "\"n\": 51"), HasSubstr("'n' is not the sum"));
  EXPECT_THAT(refusal_with("\"n\": 50", "\"n\": -50"), HasSubstr("'n' is not a non-negative integer"));
  EXPECT_THAT(refusal_with("\"n\": 50", "\"n\": 50.0"), HasSubstr("'n' is not a non-negative integer"));
  EXPECT_THAT(refusal_with("\"n\": 50", "\"m\": 50"), HasSubstr("'n' is missing"));
  EXPECT_THAT(refusal_with("\"channels\": 3", "\"channels\": 4294967299"), HasSubstr("'shape' is implausible"));
  EXPECT_THAT(refusal_with("\"height\": 4", "\"height\": \"4\""), HasSubstr("'shape.height' is not a non-negative"));
  EXPECT_THAT(refusal_with("shard-00000.h5", "../../etc/passwd"), HasSubstr("'shards[0].path' is not a plain file"));
  EXPECT_THAT(refusal_with("\"sha256\": \"", "\"sha256\": \"zz"), HasSubstr("'shards[0].sha256' is not 64"));
  EXPECT_THAT(refusal_with("\"fingerprint\": \"", "\"fingerprint\": \"0"), HasSubstr("'fingerprint' does not fit"));
  EXPECT_THAT(refusal_with("\"unlabelled\": 4", "\"unlabelled\": 5"), HasSubstr("do not add up to n"));
  EXPECT_THAT(refusal_with("perrin-dataset", "other-dataset"), HasSubstr("'format'"));
  EXPECT_THAT(refusal_with("\"format_version\": 1", "\"format_version\": 9"), HasSubstr("has format version 9"));
  EXPECT_THAT(refusal_with("\"a\",", "5,"), HasSubstr("'class_names' holds something else"));
}

TEST_F(DatasetFolder, EveryTruncatedManifestIsRefused) {
  const std::string good = contents_of(path_ / "manifest.json");
  for (std::size_t length = 0; length + 2 < good.size(); length += 13) {
    write_contents(path_ / "manifest.json", good.substr(0, length));
    EXPECT_THAT(refusal(), HasSubstr("manifest.json: byte ")) << length;
  }
  write_contents(path_ / "manifest.json", R"({"n": 204e797872})");  // found by tests/fuzz/manifest.cpp
  EXPECT_THAT(refusal(), HasSubstr("manifest.json: has a number that is none"));
  write_contents(path_ / "manifest.json", "[1, 2]");
  EXPECT_THAT(refusal(), HasSubstr("is not an object"));
}

TEST_F(DatasetFolder, DeepNestingInTheManifestDoesNotOverflowTheStack) {
  write_contents(path_ / "manifest.json", std::string(1'000'000, '['));
  EXPECT_THAT(refusal(), HasSubstr("is not JSON"));
}

TEST_F(DatasetFolder, FingerprintFollowsTheContents) {
  const std::string here = Dataset(path_).fingerprint();
  EXPECT_EQ(here.size(), 64u);
  prepare(source_, {.output = folder_ / "again", .shard_images = 12, .shuffle_seed = 4});
  prepare(source_, {.output = folder_ / "seed", .shard_images = 12, .shuffle_seed = 5});
  EXPECT_EQ(Dataset(folder_ / "again").fingerprint(), here);
  EXPECT_NE(Dataset(folder_ / "seed").fingerprint(), here);
}

TEST_F(DatasetFolder, OpensWhereTheManifestTellsNothingOfTheMetadata) {
  forget_metadata();
  EXPECT_TRUE(read_manifest(path_).shards.front().metadata.sha256.empty());
  EXPECT_EQ(Dataset(path_).size(), kImages);
}

TEST_F(DatasetFolder, RefusesMetadataThatContradictsItself) {
  const Manifest good = read_manifest(path_);
  const auto refusal_of = [&](const auto& change) {
    Manifest manifest = good;
    change(manifest.shards[1]);
    write_contents(path_ / "manifest.json", to_json(manifest));
    return refusal();
  };
  EXPECT_THAT(refusal_of([](ShardEntry& shard) { shard.metadata.images_offset = shard.bytes; }),
              HasSubstr("cannot hold the 720 bytes of /images"));
  EXPECT_THAT(refusal_of([](ShardEntry& shard) { shard.metadata.images_offset = UINT64_MAX; }),
              HasSubstr("cannot hold the 720 bytes of /images"));
  EXPECT_THAT(refusal_of([](ShardEntry& shard) { shard.metadata.sha256[0] = 'g'; }),
              HasSubstr("'shards[1].metadata.sha256' is not 64 hexadecimal digits"));
  EXPECT_THAT(refusal_of([](ShardEntry& shard) { shard.bytes = 719; }),
              HasSubstr("'shards[1].bytes' cannot hold so many images"));
  // A digest that fits its own, wrong, place: HDF5's word for the place must be the same.
  EXPECT_THAT(refusal_of([&](ShardEntry& shard) {
                const File file = File::open_for_reading(path_ / shard.path);
                shard.metadata = {64, metadata_sha256(file, 64, 720)};
              }),
              HasSubstr("64 by the manifest"));
}

TEST_F(DatasetFolder, ManifestSurvivesItsText) {
  const Manifest manifest = read_manifest(path_);
  EXPECT_EQ(parse_manifest(to_json(manifest), "m"), manifest);
  EXPECT_FALSE(manifest.shards.back().metadata.sha256.empty());
  EXPECT_EQ(manifest.class_histogram.size(), 7u);
  EXPECT_EQ(manifest.unlabelled, 4u);
  EXPECT_EQ(manifest.class_names.back(), "gé");
}

}  // namespace
}  // namespace perrin::data::test
