#include "data/crc32c.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string_view>
#include <vector>

namespace perrin::data {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(Crc32c, GivesTheCheckValueOfTheCatalogue) {
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283u);
  EXPECT_EQ(crc32c_by_table(bytes_of("123456789")), 0xe3069283u);
  EXPECT_EQ(crc32c({}), 0u);
}

TEST(Crc32c, GivesTheVectorsOfRfc3720) {
  std::vector<std::uint8_t> bytes(32, 0);
  EXPECT_EQ(crc32c(std::as_bytes(std::span(bytes))), 0x8a9136aau);
  std::fill(bytes.begin(), bytes.end(), 0xff);
  EXPECT_EQ(crc32c(std::as_bytes(std::span(bytes))), 0x62a8ab43u);
  std::iota(bytes.begin(), bytes.end(), 0);
  EXPECT_EQ(crc32c(std::as_bytes(std::span(bytes))), 0x46dd794eu);
  std::reverse(bytes.begin(), bytes.end());
  EXPECT_EQ(crc32c(std::as_bytes(std::span(bytes))), 0x113fdb5cu);
}

TEST(Crc32c, IsTheSameByInstructionAndByTableInAnyPiecesAndAlignment) {
  std::mt19937 generator(1);
  std::vector<std::uint8_t> bytes(10'007);  // the long and the short runs, and a rest
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(generator());
  const auto all = std::as_bytes(std::span(bytes));
  for (int trial = 0; trial < 300; ++trial) {
    const std::size_t first = generator() % all.size();
    const auto piece = all.subspan(first, generator() % (all.size() - first));
    const std::size_t cut = piece.empty() ? 0 : generator() % piece.size();
    const std::uint32_t whole = crc32c(piece);
    EXPECT_EQ(whole, crc32c_by_table(piece));
    EXPECT_EQ(whole, crc32c(piece.subspan(cut), crc32c(piece.first(cut))));
    EXPECT_EQ(whole, crc32c_by_table(piece.subspan(cut), crc32c_by_table(piece.first(cut))));
  }
}

}  // namespace
}  // namespace perrin::data
