#include "trainer/gather_texts.hpp"

#include <algorithm>
#include <cstdint>
#include <span>

#include "trainer/deadlines.hpp"

namespace perrin::trainer {

std::vector<std::string> gather_texts(comm::Communicator& control, const std::string& text) {
  const auto ranks = static_cast<std::size_t>(control.size());
  const std::vector<std::int64_t> length = {static_cast<std::int64_t>(text.size())};
  std::vector<std::int64_t> lengths(ranks);
  control.all_gather(std::span<const std::int64_t>(length), std::span<std::int64_t>(lengths)).wait(kLongWork);
  const auto longest = static_cast<std::size_t>(*std::max_element(lengths.begin(), lengths.end()));
  std::vector<std::string> texts(ranks);
  if (longest == 0) return texts;
  std::vector<std::uint8_t> mine(longest), all(longest * ranks);
  std::copy(text.begin(), text.end(), mine.begin());
  control.all_gather(std::span<const std::uint8_t>(mine), std::span<std::uint8_t>(all)).wait(kLongWork);
  for (std::size_t r = 0; r < ranks; ++r) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(r * longest);
    texts[r].assign(begin, begin + lengths[r]);
  }
  return texts;
}

}  // namespace perrin::trainer
