#include "launch/cpu_share.hpp"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <thread>
#include <vector>

namespace perrin::launch {
namespace {

bool overlap(const CpuSet& a, const CpuSet& b) {
  for (std::size_t word = 0; word < a.size(); ++word) {
    if ((a[word] & b[word]) != 0) return true;
  }
  return false;
}

int count(const CpuSet& set) {
  int bits = 0;
  for (const std::int64_t word : set) bits += std::popcount(static_cast<std::uint64_t>(word));
  return bits;
}

}  // namespace

CpuSet usable_cpus() {
  CpuSet set{};
  cpu_set_t affinity;
  static_assert(sizeof(affinity) == sizeof(set));
  CPU_ZERO(&affinity);
  if (sched_getaffinity(0, sizeof(affinity), &affinity) == 0) {
    std::memcpy(set.data(), &affinity, sizeof(set));
  } else {  // more than 1024 CPUs: take as many as there are, up to what the set holds
    const unsigned cpus = std::min(1024u, std::max(1u, std::thread::hardware_concurrency()));
    for (unsigned cpu = 0; cpu < cpus; ++cpu)
      set[cpu / 64] |= std::bit_cast<std::int64_t>(std::uint64_t{1} << (cpu % 64));
  }
  return set;
}

int share_of_cpus(const CpuSet& mine, std::span<const CpuSet> node) {
  const auto sharing =
      std::count_if(node.begin(), node.end(), [&](const CpuSet& other) { return overlap(mine, other); });
  return std::max(1, count(mine) / std::max(1, static_cast<int>(sharing)));
}

int share_of_cpus(comm::World& world) {
  const CpuSet mine = usable_cpus();
  const auto ranks = static_cast<std::size_t>(world.size());
  std::vector<std::int64_t> words(ranks * mine.size());
  world.control().all_gather(std::span<const std::int64_t>(mine), std::span<std::int64_t>(words)).wait();
  std::vector<CpuSet> node;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    if (world.host_names()[rank] != world.host_name()) continue;
    CpuSet& set = node.emplace_back();
    std::copy_n(words.begin() + static_cast<std::ptrdiff_t>(rank * set.size()), set.size(), set.begin());
  }
  return share_of_cpus(mine, node);
}

}  // namespace perrin::launch
