#include "comm/node_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <random>
#include <string>

#include "comm/mpi_check.hpp"

namespace perrin::comm {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kContributions = 2;  // halves
constexpr std::size_t kResults = 3;

/// Two processes that say the same here see each other's files under /proc: one boot of one kernel, and one numbering
/// of its processes (containers on one machine have their own). Empty where /proc does not say.
std::string process_space() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::array<char, 64> space{};
  const ssize_t length = ::readlink("/proc/self/ns/pid", space.data(), space.size() - 1);
  return boot.empty() || length <= 0 ? "" : boot + " " + space.data();
}

void* map(int file, std::size_t bytes, int protection) {
  void* memory = ::mmap(nullptr, bytes, protection, MAP_SHARED | MAP_POPULATE, file, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

}  // namespace

/// How the other ranks find the memory of one.
struct NodeMemory::Invitation {
  std::array<char, 128> process_space;  // empty: this rank has no memory to share
  std::int64_t process;
  std::int64_t file;
  std::uint64_t token;
};

NodeMemory::NodeMemory(int rank, int size, std::size_t piece_bytes)
    : rank_(rank), size_(size), parts_(static_cast<std::size_t>(size)) {
  const auto ranks = static_cast<std::size_t>(size);
  slot_bytes_ = ((piece_bytes + ranks - 1) / ranks + kCacheLine - 1) / kCacheLine * kCacheLine;
  part_bytes_ = sizeof(Header) + (kContributions * ranks + kResults) * slot_bytes_;
}

NodeMemory::~NodeMemory() {
  for (void* part : parts_) {
    if (part != nullptr) ::munmap(part, part_bytes_);
  }
  close_own_file();
}

std::unique_ptr<NodeMemory> NodeMemory::shared_by(MPI_Comm comm, std::size_t piece_bytes,
                                                  std::chrono::milliseconds deadline) {
  int rank = 0;
  int size = 1;
  require_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank", rank);
  require_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size", rank);
  if (size == 1) return nullptr;
  std::unique_ptr<NodeMemory> memory(new NodeMemory(rank, size, piece_bytes));

  // On the heap, and left there if the deadline passes: MPI may still write to them.
  struct Exchanged {
    Invitation own;
    std::vector<Invitation> all;
    int mapped;
  };
  auto exchanged = std::make_unique<Exchanged>();
  const auto complete = [&](MPI_Request request, const char* what) {
    try {
      wait_within(deadline, request, what, rank);
    } catch (...) {
      (void)exchanged.release();
      throw;
    }
  };
  MPI_Request request = MPI_REQUEST_NULL;
  exchanged->own = memory->invite();
  exchanged->all.resize(static_cast<std::size_t>(size));
  require_mpi(MPI_Iallgather(&exchanged->own, sizeof(Invitation), MPI_BYTE, exchanged->all.data(), sizeof(Invitation),
                             MPI_BYTE, comm, &request),
              "MPI_Iallgather", rank);
  complete(request, "the ranks did not say where their memory is");
  exchanged->mapped = memory->map_all(exchanged->all) ? 1 : 0;
  require_mpi(MPI_Iallreduce(MPI_IN_PLACE, &exchanged->mapped, 1, MPI_INT, MPI_MIN, comm, &request), "MPI_Iallreduce",
              rank);
  complete(request, "the ranks did not agree on sharing memory");
  memory->close_own_file();
  if (exchanged->mapped == 0) return nullptr;
  return memory;
}

NodeMemory::Invitation NodeMemory::invite() {
  Invitation invitation{};
  const std::string space = process_space();
  own_file_ = ::memfd_create("perrin-node-memory", MFD_CLOEXEC);
  if (own_file_ < 0 || ::ftruncate(own_file_, static_cast<off_t>(part_bytes_)) != 0) return invitation;
  void* own = map(own_file_, part_bytes_, PROT_READ | PROT_WRITE);
  parts_[static_cast<std::size_t>(rank_)] = own;
  if (own == nullptr || space.size() >= invitation.process_space.size()) return invitation;
  std::random_device random;
  invitation.token = (std::uint64_t{random()} << 32) | random();
  new (own) Header{.token = invitation.token, .signatures = {}, .offered = 0, .reduced = 0};
  invitation.process = ::getpid();
  invitation.file = own_file_;
  std::copy(space.begin(), space.end(), invitation.process_space.begin());
  return invitation;
}

bool NodeMemory::map_all(const std::vector<Invitation>& invitations) {
  const Invitation& own = invitations[static_cast<std::size_t>(rank_)];
  if (own.process_space[0] == '\0') return false;
  for (const Invitation& invitation : invitations) {
    if (invitation.process_space != own.process_space) return false;
  }
  for (int r = 0; r < size_; ++r) {
    if (r == rank_) continue;
    const Invitation& invitation = invitations[static_cast<std::size_t>(r)];
    const std::string path = fmt::format("/proc/{}/fd/{}", invitation.process, invitation.file);
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    struct stat status {};
    void* part = nullptr;
    if (::fstat(file, &status) == 0 && static_cast<std::size_t>(status.st_size) == part_bytes_)
      part = map(file, part_bytes_, PROT_READ);
    ::close(file);
    parts_[static_cast<std::size_t>(r)] = part;
    if (part == nullptr || header(r).token != invitation.token) return false;
  }
  return true;
}

void NodeMemory::close_own_file() noexcept {
  if (own_file_ >= 0) ::close(own_file_);
  own_file_ = -1;
}

std::byte* NodeMemory::slot(int r, std::size_t index) const noexcept {
  return static_cast<std::byte*>(parts_[static_cast<std::size_t>(r)]) + sizeof(Header) + index * slot_bytes_;
}

std::byte* NodeMemory::contribution(int from, int to, std::uint64_t piece) const noexcept {
  return slot(from, piece % kContributions * static_cast<std::size_t>(size_) + static_cast<std::size_t>(to));
}

std::byte* NodeMemory::result_of(int r, std::uint64_t piece) const noexcept {
  return slot(r, kContributions * static_cast<std::size_t>(size_) + piece % kResults);
}

void NodeMemory::offer(std::uint64_t piece, const ReductionSignature& signature) noexcept {
  header(rank_).signatures[piece % 2] = signature;
  header(rank_).offered.store(piece + 1, std::memory_order_release);
}

void NodeMemory::finish(std::uint64_t piece) noexcept {
  header(rank_).reduced.store(piece + 1, std::memory_order_release);
}

}  // namespace perrin::comm
