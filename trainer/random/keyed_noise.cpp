#include "trainer/random/keyed_noise.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/random/fill.hpp"

namespace perrin::trainer {
namespace {

at::Tensor empty_batch(std::span<const std::uint64_t> positions, at::IntArrayRef sample_shape) {
  std::vector<std::int64_t> shape{static_cast<std::int64_t>(positions.size())};
  shape.insert(shape.end(), sample_shape.begin(), sample_shape.end());
  return at::empty(shape, at::kFloat);
}

// Calls fill(position, elements of that row) for every row, on LibTorch's threads: rows are independent.
template <typename Fill>
void fill_rows(at::Tensor& batch, std::span<const std::uint64_t> positions, const Fill& fill) {
  const auto rows = static_cast<std::int64_t>(positions.size());
  if (rows == 0) {
    return;
  }
  const std::int64_t row_elements = batch.numel() / rows;
  float* data = batch.data_ptr<float>();
  at::parallel_for(0, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      fill(positions[static_cast<std::size_t>(row)],
           std::span(data + row * row_elements, static_cast<std::size_t>(row_elements)));
    }
  });
}

}  // namespace

at::Tensor keyed_normal(const Stream& stream, std::span<const std::uint64_t> positions, at::IntArrayRef sample_shape) {
  at::Tensor batch = empty_batch(positions, sample_shape);
  fill_rows(batch, positions,
            [&](std::uint64_t position, std::span<float> row) { fill_normal(stream, position, row); });
  return batch;
}

double keyed_uniform(const Stream& stream, std::uint64_t position) {
  const PhiloxCounter words = philox4x32_10(first_counter(stream, position), philox_key(stream));
  const std::uint64_t bits = words[0] | static_cast<std::uint64_t>(words[1]) << 32;
  return (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52;
}

at::Tensor keyed_flips(const Stream& stream, std::span<const std::uint64_t> positions) {
  at::Tensor batch = at::empty({static_cast<std::int64_t>(positions.size())}, at::kBool);
  bool* data = batch.data_ptr<bool>();
  for (const std::uint64_t position : positions) {
    *data++ = (philox4x32_10(first_counter(stream, position), philox_key(stream))[0] & 1u) != 0;
  }
  return batch;
}

at::Tensor keyed_dropout(const Stream& stream, std::span<const std::uint64_t> positions, at::IntArrayRef sample_shape,
                         double keep) {
  if (!(keep > 0 && keep <= 1)) {
    throw std::invalid_argument("keyed_dropout: keep probability " + std::to_string(keep) + " is not in (0, 1]");
  }
  // An element is kept when its 32-bit word is below keep * 2^32; 64 bits, so that keep = 1 keeps every word.
  const auto threshold = static_cast<std::uint64_t>(std::ldexp(keep, 32));
  const auto factor = static_cast<float>(1.0 / keep);
  at::Tensor batch = empty_batch(positions, sample_shape);
  fill_rows(batch, positions, [&](std::uint64_t position, std::span<float> row) {
    std::vector<std::uint32_t> bits(row.size());
    fill_bits(stream, position, bits);
    for (std::size_t i = 0; i < row.size(); ++i) {
      row[i] = bits[i] < threshold ? factor : 0.0f;
    }
  });
  return batch;
}

}  // namespace perrin::trainer
