#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace perrin::data {

/// CRC-32C (Castagnoli; RFC 3720 appendix B.4): crc32c("123456789") = 0xe3069283.
/// Continues from `previous`, so that crc32c(b, crc32c(a)) is the checksum of a followed by b.
/// Uses the SSE4.2 instruction where the processor has it (up to 27 GB/s per core), else tables.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous = 0);

/// The same by tables alone, on any processor.
std::uint32_t crc32c_by_table(std::span<const std::byte> bytes, std::uint32_t previous = 0);

}  // namespace perrin::data
