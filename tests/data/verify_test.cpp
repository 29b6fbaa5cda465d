#include "data/verify.hpp"

#include "data/dataset.hpp"
#include "data/prepare.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr ImageShape kShape{3, 32, 32};
constexpr std::uint64_t kImages = 900;  // of 3 KiB: a shard is several blocks

class Verification : public ::testing::Test {
 protected:
  Verification() { prepare(PatternSource(kImages, kShape), {.output = path_, .shard_images = 400}); }

  std::vector<std::string> damage(std::size_t threads = 2) const { return verify_dataset(path_, threads).damage; }
  std::uint64_t byte_of(const char* shard, std::uint64_t image) const {
    return ShardReader(path_ / shard).layout().images_offset + image * kShape.bytes();
  }

  const TemporaryFolder folder_;
  const fs::path path_ = folder_ / "set";
};

TEST_F(Verification, ReadsAllOfASoundDatasetAndSaysHowFarItIs) {
  for (const std::size_t threads : {1u, 3u}) {
    std::uint64_t last = 0, all = 0;
    const VerifyOutcome outcome = verify_dataset(path_, threads, [&](std::uint64_t done, std::uint64_t total) {
      EXPECT_GT(done, last);
      last = done;
      all = total;
    });
    EXPECT_TRUE(outcome.damage.empty());
    EXPECT_EQ(outcome.images, kImages);
    EXPECT_EQ(last, all);
    EXPECT_EQ(all, outcome.bytes + kImages * kShape.bytes());
  }
}

TEST_F(Verification, NamesEveryDamagedImageAndFile) {
  for (const std::uint64_t image : {7u, 8u, 399u}) flip_bit(path_ / "shard-00000.h5", byte_of("shard-00000.h5", image));
  flip_bit(path_ / "shard-00002.h5", byte_of("shard-00002.h5", 99) + kShape.bytes() - 1, 7);
  EXPECT_THAT(damage(),
              ElementsAre(AllOf(HasSubstr("shard-00000.h5: has the SHA-256 "), HasSubstr("by the manifest")),
                          HasSubstr("image 7 fails"), HasSubstr("image 8 fails"), HasSubstr("image 399 fails"),
                          HasSubstr("shard-00002.h5: has the SHA-256 "), HasSubstr("image 99 fails")));
}

TEST_F(Verification, FindsWhatNoImageShows) {
  // The last byte of the file belongs to no image or table that reading looks at before it is wanted.
  std::ofstream(path_ / "shard-00001.h5", std::ios::binary | std::ios::in).seekp(600).put('x');
  EXPECT_THAT(damage(), ::testing::Contains(HasSubstr("shard-00001.h5: ")));
}

TEST_F(Verification, AMissingAndATruncatedShardDoNotHideTheThird) {
  fs::remove(path_ / "shard-00000.h5");
  fs::resize_file(path_ / "shard-00001.h5", 5000);
  flip_bit(path_ / "shard-00002.h5", byte_of("shard-00002.h5", 3));
  EXPECT_THAT(damage(), ElementsAre(HasSubstr("shard-00000.h5: "), HasSubstr("truncated"),
                                    HasSubstr("shard-00002.h5: has the SHA-256"), HasSubstr("image 3 fails")));
}

TEST_F(Verification, SwappedShardsAreFound) {
  // Their own checksums are right; their places are not.
  const std::string manifest = contents_of(path_ / "manifest.json");
  fs::rename(path_ / "shard-00000.h5", folder_ / "x");
  fs::rename(path_ / "shard-00001.h5", path_ / "shard-00000.h5");
  fs::rename(folder_ / "x", path_ / "shard-00001.h5");
  EXPECT_FALSE(damage().empty());
}

TEST_F(Verification, WithoutAManifestThereIsNothingToCompareWith) {
  EXPECT_THAT(data_error_of([&] { verify_dataset(folder_.path(), 1); }), HasSubstr("manifest.json"));
  EXPECT_THROW(verify_dataset(path_, 0), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::data::test
