#include "data/sha256.hpp"

#include "tests/data/support.hpp"

namespace perrin::data::test {
namespace {

constexpr std::string_view kOfMillionA = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Sha256, GivesTheVectorsOfFips180) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256, IsTheSameInPiecesAndStartsAfreshAfterTheDigest) {
  Sha256 hash;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 1000; ++i) hash.update(std::string(1000, 'a'));
    EXPECT_EQ(hash.hex(), kOfMillionA);
  }
}

TEST(Sha256, OfAFileIsThatOfItsBytes) {
  const TemporaryFolder folder;
  write_contents(folder / "a", std::string(1'000'000, 'a'));
  EXPECT_EQ(sha256_of_file(folder / "a"), kOfMillionA);
  const std::string large(3 * 1024 * 1024 + 5, 'x');
  write_contents(folder / "x", large);
  EXPECT_EQ(sha256_of_file(folder / "x"), sha256_hex(large));
  write_contents(folder / "empty", "");
  EXPECT_EQ(sha256_of_file(folder / "empty"), sha256_hex(""));
}

}  // namespace
}  // namespace perrin::data::test
