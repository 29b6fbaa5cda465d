#include "data/sha256.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <vector>

#include "data/file.hpp"

namespace perrin::data {
namespace {

constexpr std::size_t kFileBlockBytes = std::size_t{1} << 20;

void require(int result) {
  if (result != 1) throw std::runtime_error("OpenSSL's libcrypto offers no SHA-256; check its installation");
}

}  // namespace

void Sha256::Release::operator()(evp_md_ctx_st* context) const noexcept { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  if (context_ == nullptr) throw std::bad_alloc();
  require(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr));
}

Sha256& Sha256::update(std::span<const std::byte> bytes) {
  require(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()));
  return *this;
}

Sha256& Sha256::update(std::string_view text) { return update(std::as_bytes(std::span(text.data(), text.size()))); }

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  require(EVP_DigestFinal_ex(context_.get(), digest.data(), &length));
  require(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr));
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

std::string sha256_hex(std::span<const std::byte> bytes) { return Sha256().update(bytes).hex(); }

std::string sha256_hex(std::string_view text) { return Sha256().update(text).hex(); }

std::string sha256_of_file(const std::filesystem::path& path) {
  const File file = File::open_for_reading(path);
  const std::uint64_t size = file.size();
  std::vector<std::byte> block(std::min<std::uint64_t>(size, kFileBlockBytes));
  Sha256 hash;
  for (std::uint64_t offset = 0; offset < size; offset += block.size()) {
    const std::span piece(block.data(), std::min<std::uint64_t>(block.size(), size - offset));
    file.pread_exact(piece, offset);
    hash.update(piece);
  }
  return hash.hex();
}

}  // namespace perrin::data
