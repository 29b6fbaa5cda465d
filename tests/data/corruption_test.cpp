// A thousand damaged shards and a thousand damaged manifests: each is refused or found by name, or gives the right
// pixels and labels. Seeded, so that a failure repeats itself.

#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <random>

#include "data/dataset.hpp"
#include "data/prepare.hpp"
#include "data/verify.hpp"
#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr ImageShape kShape{3, 8, 8};
constexpr std::uint64_t kImages = 50, kShardImages = 20;  // the first two of three shards are of one size
constexpr int kMutants = 1000;
constexpr std::size_t kPage = 4096, kSector = 512;
constexpr auto kDeadline = std::chrono::seconds(5);  // for one mutant; 1 ms is usual
const std::string kShard = "shard-00000.h5";

struct Range {
  std::uint64_t first, end;

  bool contains(std::uint64_t byte) const { return byte >= first && byte < end; }
};

/// A sound dataset, another of the same images in another order, and dice.
class Corruption : public ::testing::Test {
 protected:
  Corruption() {
    prepare(source_, {.output = path_, .shard_images = kShardImages, .shuffle_seed = 1});
    prepare(source_, {.output = folder_ / "other", .shard_images = kShardImages, .shuffle_seed = 2});
    const ShardLayout layout = ShardReader(path_ / kShard).layout();
    const std::uint64_t n = layout.images;
    images_ = {layout.images_offset, layout.images_offset + n * kShape.bytes()};
    labels_ = {layout.labels_offset, layout.labels_offset + n * 4};
    source_ids_ = {layout.source_id_offset, layout.source_id_offset + n * 8};
    crc32c_ = {layout.crc32c_offset, layout.crc32c_offset + n * 4};
    good_ = contents_of(path_ / kShard);
    const Dataset dataset(path_);
    for (std::uint64_t i = 0; i < kImages; ++i) source_of_.push_back(dataset.source_id(i));
  }

  std::uint64_t below(std::uint64_t count) { return dice_() % count; }
  std::uint64_t in(const Range& range) { return range.first + below(range.end - range.first); }
  void flip(std::string& text, std::uint64_t byte) { text[byte] ^= static_cast<char>(1 << below(8)); }
  static void zero(std::string& text, std::size_t first, std::size_t count) {
    const auto begin = text.begin() + static_cast<std::ptrdiff_t>(first);
    std::fill(begin, begin + static_cast<std::ptrdiff_t>(std::min(count, text.size() - first)), '\0');
  }

  /// Whether sample i has its own pixels and label; otherwise the refusal goes to `message`.
  bool reads(const Dataset& dataset, std::uint64_t i, std::string& message) const {
    std::vector<std::uint8_t> pixels(kShape.bytes()), expected(kShape.bytes());
    source_.read(source_of_[i], expected);
    EXPECT_EQ(dataset.label(i), source_.label(source_of_[i])) << "a wrong label, silently";
    try {
      dataset.read(i, pixels);
    } catch (const DataError& error) {
      message = error.what();
      return false;
    }
    EXPECT_EQ(pixels, expected) << "a wrong image, silently";
    return true;
  }

  /// All samples right, or a refusal, which is the result.
  std::string open_and_read(ReadMethod method) const {
    try {
      const Dataset dataset(path_, {.read = method});
      EXPECT_EQ(dataset.size(), kImages);
      EXPECT_EQ(dataset.class_names(), source_.class_names());
      std::string message;
      for (std::uint64_t i = 0; i < kImages; ++i) {
        if (!reads(dataset, i, message)) return message;
      }
    } catch (const DataError& error) {
      return error.what();
    }
    return {};
  }

  std::vector<std::string> damage() const {
    try {
      return verify_dataset(path_, 1).damage;
    } catch (const DataError& error) {
      return {error.what()};
    }
  }

  const PatternSource source_{kImages, kShape};
  const TemporaryFolder folder_{"/dev/shm"};
  const fs::path path_ = folder_ / "set";
  Range images_{}, labels_{}, source_ids_{}, crc32c_{};
  std::string good_;
  std::vector<std::uint64_t> source_of_;
  std::mt19937_64 dice_{20260101};
};

TEST_F(Corruption, AThousandDamagedShardsAreNamedAndGiveNoWrongPixelOrLabel) {
  std::vector<std::uint64_t> structures;  // what HDF5 wrote, without the tables and the zeros between
  for (std::uint64_t byte = 0; byte < good_.size(); ++byte) {
    if (good_[byte] != '\0' && !images_.contains(byte) && !labels_.contains(byte) && !source_ids_.contains(byte) &&
        !crc32c_.contains(byte))
      structures.push_back(byte);
  }
  std::vector<std::uint64_t> borders{0, 1, 8, good_.size() / 2, good_.size() - 1};
  for (const Range& range : {images_, labels_, source_ids_, crc32c_}) {
    for (const std::uint64_t border : {range.first, range.end}) {
      for (const std::uint64_t length : {border - 1, border, border + 1}) {
        if (length < good_.size()) borders.push_back(length);
      }
    }
  }
  const std::array others{contents_of(path_ / "shard-00001.h5"), contents_of(path_ / "shard-00002.h5"),
                          contents_of(folder_ / "other" / kShard)};

  using Damage = std::function<void(std::string&)>;
  const auto flip_in = [this](const Range& range) -> Damage {
    return [this, range](std::string& shard) { flip(shard, in(range)); };
  };
  const std::vector<std::pair<std::string, Damage>> kinds{
      {"header", flip_in({0, 96})},
      {"structures", [&](std::string& shard) { flip(shard, structures[below(structures.size())]); }},
      {"pixels", flip_in(images_)},
      {"labels", flip_in(labels_)},
      {"source ids", flip_in(source_ids_)},
      {"checksums", flip_in(crc32c_)},
      {"anywhere", flip_in({0, good_.size()})},
      {"truncated", [&](std::string& shard) { shard.resize(borders[below(borders.size())]); }},
      {"truncated anywhere", [&](std::string& shard) { shard.resize(below(shard.size())); }},
      {"a page of zeros", [&](std::string& shard) { zero(shard, below(shard.size() / kPage + 1) * kPage, kPage); }},
      {"a sector of zeros",
       [&](std::string& shard) {
         zero(shard, in({images_.first / kSector + 1, images_.end / kSector}) * kSector, kSector);
       }},
      {"overwritten",
       [&](std::string& shard) {
         const std::uint64_t first = below(2) == 0 ? structures[below(structures.size())] : below(shard.size());
         for (std::uint64_t i = first; i < std::min(shard.size(), first + 1 + below(64)); ++i)
           shard[i] = static_cast<char>(dice_());
       }},
      {"extended", [&](std::string& shard) { shard.append(1 + below(2 * kPage), static_cast<char>(dice_())); }},
      {"another shard", [&](std::string& shard) { shard = others[below(others.size())]; }},
  };

  std::map<std::string, int> refused, image_refused, right;
  for (int i = 0; i < kMutants; ++i) {
    const auto& [kind, spoil] = kinds[static_cast<std::size_t>(i) % kinds.size()];
    SCOPED_TRACE(kind + ", mutant " + std::to_string(i));
    std::string shard = good_;
    spoil(shard);
    write_contents(path_ / kShard, shard);
    const auto begun = std::chrono::steady_clock::now();

    const std::vector<std::string> found = damage();
    EXPECT_THAT(found, Each(HasSubstr(kShard)));
    EXPECT_EQ(found.empty(), shard == good_) << "verify missed a difference";

    const bool sound_outside =
        shard.size() == good_.size() && shard.compare(0, images_.first, good_, 0, images_.first) == 0 &&
        shard.compare(images_.end, std::string::npos, good_, images_.end, std::string::npos) == 0;
    for (const ReadMethod method : {ReadMethod::mmap, ReadMethod::pread}) {
      const std::string message = open_and_read(method);
      if (shard == good_) {
        EXPECT_EQ(message, "");
        ++right[kind];
      } else if (sound_outside) {  // the dataset opens, and the first damaged image is named
        const auto first = static_cast<std::ptrdiff_t>(images_.first);
        const auto changed = std::mismatch(good_.begin() + first, good_.end(), shard.begin() + first).first;
        const std::size_t image = static_cast<std::size_t>(changed - good_.begin() - first) / kShape.bytes();
        EXPECT_THAT(message, AllOf(HasSubstr(kShard), HasSubstr("image " + std::to_string(image) + " fails")));
        ++image_refused[kind];
      } else {
        EXPECT_THAT(message, HasSubstr(kShard));
        ++refused[kind];
      }
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begun, kDeadline);
    if (HasFailure()) break;  // with the mutant still there to look at
  }
  for (const auto& [kind, damage_kind] : kinds) {
    RecordProperty(kind, std::to_string(refused[kind]) + " refused, " + std::to_string(image_refused[kind]) +
                             " images refused, " + std::to_string(right[kind]) + " as they were");
    EXPECT_GT(refused[kind] + image_refused[kind], 0) << kind << " damaged nothing";
  }
}

TEST_F(Corruption, OneDamagedPixelLeavesAllOtherImagesReadable) {
  for (int i = 0; i < 20; ++i) {
    const std::uint64_t byte = in(images_);
    const std::uint64_t damaged = (byte - images_.first) / kShape.bytes();
    flip_bit(path_ / kShard, byte, static_cast<int>(below(8)));
    const Dataset dataset(path_);
    for (std::uint64_t image = 0; image < kImages; ++image) {
      std::string message;
      EXPECT_EQ(reads(dataset, image, message), image != damaged) << message;
    }
    write_contents(path_ / kShard, good_);
  }
}

TEST_F(Corruption, EveryByteOutsideThePixelsIsCheckedBeforeHdf5SeesIt) {
  // The value 3 makes a message of an object header a "shared" one, on whose table, which is not there, HDF5 1.10.8
  // ends the process.
  const TemporaryFolder folder("/dev/shm");
  prepare(PatternSource(8, {1, 4, 4}), {.output = folder / "set"});
  const Manifest manifest = read_manifest(folder / "set");
  const ExpectedShard expected = expected_of(manifest.shards[0], manifest.shape);
  const fs::path path = folder / "set" / kShard;
  const std::string good = contents_of(path);
  for (std::uint64_t byte = 0; byte < good.size(); ++byte) {
    const bool is_pixel = byte - expected.metadata.images_offset < expected.images_bytes;
    if (good[byte] == 3 || is_pixel) continue;
    write_contents(path, std::string(good).replace(byte, 1, 1, '\3'));
    ASSERT_THAT(data_error_of([&] { ShardReader(path, expected); }), HasSubstr("is damaged outside its pixels"))
        << byte;
  }
}

TEST_F(Corruption, AThousandDamagedManifestsAreNamedOrGiveTheRightPixelsAndLabels) {
  const fs::path path = path_ / kManifestName;
  const std::string good = contents_of(path);
  using Damage = std::function<void(std::string&)>;
  const std::vector<std::pair<std::string, Damage>> kinds{
      {"flipped", [&](std::string& text) { flip(text, below(text.size())); }},
      {"flipped twice",
       [&](std::string& text) {
         for (int i = 0; i < 2; ++i) flip(text, below(text.size()));
       }},
      {"another digit",
       [&](std::string& text) {
         std::uint64_t byte = below(text.size());
         while (text[byte] < '0' || text[byte] > '9') byte = (byte + 1) % text.size();
         text[byte] = static_cast<char>('0' + (text[byte] - '0' + 1 + static_cast<int>(below(9))) % 10);
       }},
      {"truncated",
       [&](std::string& text) {
         const std::array places{std::size_t{0}, std::size_t{1}, text.size() / 2, text.size() - 2, below(text.size())};
         text.resize(places[below(places.size())]);
       }},
      {"a byte lost", [&](std::string& text) { text.erase(below(text.size()), 1); }},
      {"a byte twice", [&](std::string& text) { text.insert(below(text.size()), 1, text[below(text.size())]); }},
      {"a line lost",
       [&](std::string& text) {
         const std::size_t first = text.rfind('\n', below(text.size()));
         if (first != std::string::npos) text.erase(first, text.find('\n', first + 1) - first);
       }},
      {"zeros",
       [&](std::string& text) {
         const std::size_t first = below(text.size());
         text.replace(first, std::min<std::size_t>(text.size() - first, 64), 64, '\0');
       }},
      {"extended", [&](std::string& text) { text.append(1 + below(kPage), static_cast<char>(dice_())); }},
      {"of another dataset", [&](std::string& text) { text = contents_of(folder_ / "other" / kManifestName); }},
  };
  int refused = 0, right = 0;
  for (int i = 0; i < kMutants; ++i) {
    const auto& [kind, spoil] = kinds[static_cast<std::size_t>(i) % kinds.size()];
    SCOPED_TRACE(kind + ", mutant " + std::to_string(i));
    std::string text = good;
    spoil(text);
    write_contents(path, text);
    const auto begun = std::chrono::steady_clock::now();
    const std::string message = open_and_read(i % 2 == 0 ? ReadMethod::mmap : ReadMethod::pread);
    // The manifest itself, or what it says is in its folder.
    EXPECT_THAT(message, AnyOf(IsEmpty(), HasSubstr(path_.string() + "/")));
    EXPECT_EQ(damage().empty(), message.empty()) << message;
    ++(message.empty() ? right : refused);
    EXPECT_LT(std::chrono::steady_clock::now() - begun, kDeadline);
    if (HasFailure()) break;
  }
  RecordProperty("refused", refused);
  RecordProperty("right", right);
  EXPECT_GT(refused, kMutants / 2);
}

}  // namespace
}  // namespace perrin::data::test
