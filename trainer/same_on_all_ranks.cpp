#include "trainer/same_on_all_ranks.hpp"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "comm/comm_error.hpp"
#include "data/sha256.hpp"
#include "trainer/deadlines.hpp"

namespace perrin::trainer {

void require_same_on_all_ranks(comm::Communicator& control, const std::string& text, const std::string& what,
                               const std::string& remedy) {
  const std::string hash = data::sha256_hex(text);
  const auto ranks = static_cast<std::size_t>(control.size());
  std::vector<std::uint8_t> mine(hash.begin(), hash.end()), all(hash.size() * ranks);
  control.all_gather(std::span<const std::uint8_t>(mine), std::span<std::uint8_t>(all))
      .wait(kLongWork);  // files are read before

  std::vector<int> different;
  std::string names;
  for (std::size_t r = 1; r < ranks; ++r) {
    const auto theirs = all.begin() + static_cast<std::ptrdiff_t>(r * hash.size());
    if (std::equal(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(hash.size()), theirs)) continue;
    different.push_back(static_cast<int>(r));
    names += (names.empty() ? "" : ", ") + std::to_string(r);
  }
  if (different.empty()) return;
  throw comm::CommError({"compare", 0, text.size(), control.rank()},
                        what + " of rank " + names + " differ from rank 0's; " + remedy, different);
}

}  // namespace perrin::trainer
