#include "trainer/evaluate/batch_journal.hpp"

#include <sys/file.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "data/crc32c.hpp"
#include "data/data_error.hpp"
#include "data/sha256.hpp"

namespace perrin::trainer {
namespace {

constexpr std::size_t kHeaderBytes = 64;  // the key's SHA-256, as text
constexpr std::size_t kChecksumBytes = sizeof(std::uint32_t);
// The ranks of a start that mpirun was told to end may live a second longer than mpirun.
constexpr std::chrono::seconds kPatience{3};
constexpr std::chrono::milliseconds kTryAgain{20};

bool begins_with(const std::filesystem::path& path, const std::string& header) {
  if (!std::filesystem::exists(path)) return false;
  const data::File file = data::File::open_for_reading(path);
  if (file.size() < kHeaderBytes) return false;
  std::string found(kHeaderBytes, '\0');
  file.pread_exact(std::as_writable_bytes(std::span(found)), 0);
  return found == header;
}

/// @return whether nobody else writes it, or the file system has no locks
bool lock_for_writing(int descriptor) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (::flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kTryAgain);
  }
  return true;
}

}  // namespace

BatchJournal::BatchJournal(const std::filesystem::path& path, const std::string& key, std::size_t record_bytes)
    : path_(path), record_bytes_(record_bytes) {
  const std::string header = data::sha256_hex(key + "\nrecord " + std::to_string(record_bytes));
  if (!begins_with(path, header)) {
    std::filesystem::remove(path);
    std::filesystem::create_directories(path.parent_path());
    data::File::create(path).write_all(std::as_bytes(std::span(header)));
  }
  file_ = data::File::open_for_writing(path);
  if (!lock_for_writing(file_->descriptor()))
    throw data::DataError(path, "is being written by another evaluation of the same samples; wait for its result");
  std::vector<std::byte> framed(record_bytes_ + kChecksumBytes);
  while (try_read(size_, framed)) ++size_;
}

std::uint64_t BatchJournal::offset_of(std::int64_t batch) const {
  return kHeaderBytes + static_cast<std::uint64_t>(batch) * (record_bytes_ + kChecksumBytes);
}

bool BatchJournal::try_read(std::int64_t batch, std::span<std::byte> framed) const {
  const data::File file = data::File::open_for_reading(path_);
  if (file.size() < offset_of(batch + 1)) return false;
  file.pread_exact(framed, offset_of(batch));
  std::uint32_t stored = 0;
  std::memcpy(&stored, framed.data() + record_bytes_, kChecksumBytes);
  return stored == data::crc32c(framed.first(record_bytes_));
}

void BatchJournal::append(std::span<const std::uint8_t> record) {
  const std::span<const std::byte> bytes = std::as_bytes(record);
  const std::uint32_t checksum = data::crc32c(bytes);
  std::vector<std::byte> framed(bytes.begin(), bytes.end());
  const auto sum = std::as_bytes(std::span(&checksum, 1));
  framed.insert(framed.end(), sum.begin(), sum.end());
  file_->pwrite_all(framed, offset_of(size_));
  ++size_;
}

std::vector<std::uint8_t> BatchJournal::read(std::int64_t batch) const {
  std::vector<std::byte> framed(record_bytes_ + kChecksumBytes);
  if (batch >= size_ || !try_read(batch, framed))
    throw data::DataError(path_, "lost a batch that was done; delete the file, and start the evaluation again");
  std::vector<std::uint8_t> record(record_bytes_);
  std::memcpy(record.data(), framed.data(), record_bytes_);
  return record;
}

void BatchJournal::remove_abandoned(const std::filesystem::path& path) {
  const data::File file = data::File::open_for_writing(path);
  if (::flock(file.descriptor(), LOCK_EX | LOCK_NB) == 0) std::filesystem::remove(path);
}

}  // namespace perrin::trainer
