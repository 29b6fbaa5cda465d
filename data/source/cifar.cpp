#include "data/source/cifar.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "data/source/tar_archive.hpp"

namespace perrin::data {
namespace {

namespace fs = std::filesystem;

constexpr ImageShape kShape{3, 32, 32};
/// Twice CIFAR-100's 50,000 records: what is larger is something else.
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{100'000} * (kShape.bytes() + 2);

constexpr std::array<std::string_view, 5> kTrain10{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                                   "data_batch_4.bin", "data_batch_5.bin"};
constexpr std::array<std::string_view, 1> kTest10{"test_batch.bin"};
constexpr std::array<std::string_view, 1> kTrain100{"train.bin"};
constexpr std::array<std::string_view, 1> kTest100{"test.bin"};
constexpr std::string_view kNames10 = "batches.meta.txt";
constexpr std::string_view kFineNames = "fine_label_names.txt";
constexpr std::string_view kCoarseNames = "coarse_label_names.txt";

constexpr std::string_view kRefusePickle =
    "is the Python version of CIFAR, a pickle, which can run any code when it is opened, and is refused; give the "
    "binary version: cifar-10-binary.tar.gz or cifar-100-binary.tar.gz from "
    "https://www.cs.toronto.edu/~kriz/cifar.html";

/// What one kind of record holds.
struct Format {
  std::string kind;
  std::size_t label_bytes;
  std::size_t label_at;
  int classes;
  std::string_view names_file;

  std::size_t record_bytes() const { return label_bytes + kShape.bytes(); }
};

Format cifar10() { return {"cifar-10", 1, 0, 10, kNames10}; }
Format cifar100(CifarLabels labels) {
  return labels == CifarLabels::coarse ? Format{"cifar-100 (coarse labels)", 2, 0, 20, kCoarseNames}
                                       : Format{"cifar-100", 2, 1, 100, kFineNames};
}

bool is_text(std::string_view name) { return name == kNames10 || name == kFineNames || name == kCoarseNames; }

NamedBytes members_of(const fs::path& path) {
  const auto wanted = [](std::string_view name) {
    return is_cifar_member(name) || is_text(name) || is_pickled_cifar_member(name);
  };
  if (!fs::is_directory(path)) {
    NamedBytes members = read_tar_members(path, wanted, kMaxFileBytes);
    if (std::none_of(members.begin(), members.end(),
                     [](const auto& member) { return is_cifar_member(member.first); }) &&
        std::any_of(members.begin(), members.end(),
                    [](const auto& member) { return is_pickled_cifar_member(member.first); })) {
      throw DataError(path, std::string(kRefusePickle));
    }
    return members;
  }
  NamedBytes members;
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename();
    if (is_cifar_member(name) || is_text(name)) members.emplace(name, read_file(entry.path(), kMaxFileBytes));
  }
  return members;
}

std::vector<std::string> class_names_from(const NamedBytes& members, const Format& format) {
  const auto found = members.find(format.names_file);
  if (found == members.end()) return {};
  std::istringstream text(std::string(reinterpret_cast<const char*>(found->second.data()), found->second.size()));
  std::vector<std::string> names;
  for (std::string line; std::getline(text, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) names.push_back(line);
  }
  return names;
}

void append_records(ImageArray& array, const Format& format, const fs::path& file, std::span<const std::byte> bytes) {
  const std::size_t record = format.record_bytes();
  if (bytes.empty() || bytes.size() % record != 0) {
    throw DataError(file, fmt::format("has {} bytes, which is no whole number of {}'s records of {}; it is truncated "
                                      "or damaged: download it again",
                                      bytes.size(), format.kind, record));
  }
  for (std::size_t at = 0; at < bytes.size(); at += record) {
    const auto label = static_cast<int>(bytes[at + format.label_at]);
    if (label >= format.classes) {
      throw DataError(file, at + format.label_at,
                      fmt::format("label {} of image {}; {} has classes 0 to {}: it is damaged, download it again",
                                  label, at / record, format.kind, format.classes - 1));
    }
    array.labels.push_back(label);
    const auto* pixels = reinterpret_cast<const std::uint8_t*>(bytes.data() + at + format.label_bytes);
    array.pixels.insert(array.pixels.end(), pixels, pixels + kShape.bytes());
  }
}

/// Whether every record could be one of the format.
bool fits(const Format& format, std::span<const std::byte> bytes) {
  if (bytes.empty() || bytes.size() % format.record_bytes() != 0) return false;
  for (std::size_t at = 0; at < bytes.size(); at += format.record_bytes()) {
    if (static_cast<int>(bytes[at + format.label_at]) >= format.classes) return false;
  }
  return true;
}

}  // namespace

bool is_cifar_member(std::string_view name) {
  const auto among = [name](const auto& names) { return std::find(names.begin(), names.end(), name) != names.end(); };
  return among(kTrain10) || among(kTest10) || among(kTrain100) || among(kTest100);
}

bool is_pickled_cifar_member(std::string_view name) {
  return name == "batches.meta" || name == "data_batch_1" || name == "test_batch" || name == "meta" ||
         name == "train" || name == "test";
}

std::unique_ptr<ArraySource> read_cifar(const fs::path& path, Subset subset, CifarLabels labels) {
  const NamedBytes members = members_of(path);
  const bool is_100 = members.contains(kTrain100[0]) || members.contains(kTest100[0]);
  const bool train = subset == Subset::train;
  const std::span<const std::string_view> wanted =
      is_100 ? std::span<const std::string_view>(train ? kTrain100 : kTest100)
             : (train ? std::span<const std::string_view>(kTrain10) : std::span<const std::string_view>(kTest10));
  const Format format = is_100 ? cifar100(labels) : cifar10();
  ImageArray array{format.kind, path, kShape, {}, {}, class_names_from(members, format)};
  for (const std::string_view name : wanted) {
    const auto found = members.find(name);
    if (found == members.end())
      throw DataError(path, fmt::format("has no {}; {} is incomplete: download it again", name, format.kind));
    append_records(array, format, path / name, found->second);
  }
  return std::make_unique<ArraySource>(std::move(array));
}

std::unique_ptr<ArraySource> read_cifar_file(const fs::path& file, CifarLabels labels) {
  const std::vector<std::byte> bytes = read_file(file, kMaxFileBytes);
  const Format format = fits(cifar10(), bytes) || !fits(cifar100(labels), bytes) ? cifar10() : cifar100(labels);
  NamedBytes texts;
  if (const fs::path names = file.parent_path() / format.names_file; fs::exists(names)) {
    texts.emplace(format.names_file, read_file(names, kMaxFileBytes));
  }
  ImageArray array{format.kind, file, kShape, {}, {}, class_names_from(texts, format)};
  append_records(array, format, file, bytes);
  return std::make_unique<ArraySource>(std::move(array));
}

}  // namespace perrin::data
