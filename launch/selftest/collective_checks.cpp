#include "launch/selftest/collective_checks.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "data/sha256.hpp"
#include "trainer/compute_stream.hpp"
#include "trainer/random/keyed_noise.hpp"

namespace perrin::launch {
namespace {

using comm::DataType;
using comm::ReduceOp;

constexpr std::int64_t kLengths[] = {0, 1, 2, 3, 1023, 300'001};

at::ScalarType scalar_type(DataType type) {
  switch (type) {
    case DataType::float32:
      return at::kFloat;
    case DataType::bfloat16:
      return at::kBFloat16;
    case DataType::float64:
      return at::kDouble;
    case DataType::int64:
      return at::kLong;
    case DataType::uint8:
      return at::kByte;
  }
  throw std::logic_error("unknown element type");
}

/// What a rank holds at the indices from `first`: whole numbers, so small that their sum over the ranks fits uint8 and
/// is exact in bfloat16 (up to 127 ranks; beyond that uint8 wraps on both sides, and bfloat16 is given its rounding).
at::Tensor values_of(int rank, int ranks, std::int64_t first, std::int64_t count) {
  return (at::arange(first, first + count, at::kLong) * 7 + rank * 13).remainder(std::max(2, 255 / ranks));
}

/// This rank's side of one collective: buffers on the device, one element into their memory.
class Buffers {
 public:
  Buffers(comm::Communicator& on, at::Device device, DataType type) : on_(on), device_(device), type_(type) {}

  at::Tensor put(const at::Tensor& values) const {
    const at::Tensor memory = at::zeros({values.numel() + 1}, at::TensorOptions(device_).dtype(scalar_type(type_)));
    const at::Tensor buffer = memory.narrow(0, 1, values.numel());
    buffer.copy_(values);
    return buffer;
  }
  /// The values of this rank from index 0.
  at::Tensor own(std::int64_t count) const { return put(values_of(on_.rank(), on_.size(), 0, count)); }
  at::Tensor empty(std::int64_t count) const { return put(at::zeros({count}, at::kLong)); }
  at::Tensor part(const at::Tensor& whole) const {
    const std::int64_t count = whole.numel() / on_.size();
    return whole.narrow(0, on_.rank() * count, count);
  }

  /// @return what is wrong; empty: nothing
  std::string compare(const at::Tensor& found, const at::Tensor& expected, const std::string& what) const {
    const at::Tensor wanted = expected.to(scalar_type(type_)).to(at::kDouble), got = found.cpu().to(at::kDouble);
    // A sum of more than 256 is rounded in bfloat16, by a ring at every hop.
    const double tolerance = type_ == DataType::bfloat16 && on_.size() > 127 ? on_.size() * 0.004 : 0.0;
    const at::Tensor wrong = (got - wanted).abs() > wanted.abs() * tolerance;
    const auto count = wrong.sum().item<std::int64_t>();
    if (count == 0) return {};
    const auto at = wrong.to(at::kLong).argmax().item<std::int64_t>();
    return fmt::format("{} of {} elements: {} are wrong, the first at {}: {} instead of {}", what, found.numel(), count,
                       at, got[at].item<double>(), wanted[at].item<double>());
  }

  at::Tensor reduced(ReduceOp op, std::int64_t first, std::int64_t count) const {
    at::Tensor result = values_of(0, on_.size(), first, count);
    for (int r = 1; r < on_.size(); ++r) {
      const at::Tensor values = values_of(r, on_.size(), first, count);
      result = op == ReduceOp::sum   ? result + values
               : op == ReduceOp::max ? at::maximum(result, values)
                                     : at::minimum(result, values);
    }
    return result;
  }

  std::string all_reduce(std::int64_t count) const {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      const at::Tensor data = own(count);
      on_.all_reduce(data.data_ptr(), size(count), type_, op, stream()).wait();
      std::string fault = compare(data, reduced(op, 0, count), std::string(name_of(op)));
      if (!fault.empty()) return fault;
    }
    return {};
  }
  std::string reduce_scatter(std::int64_t count) const {
    const at::Tensor input = own(count * on_.size()), output = empty(count);
    const at::Tensor expected = reduced(ReduceOp::sum, on_.rank() * count, count);
    on_.reduce_scatter(input.const_data_ptr(), output.data_ptr(), size(count), type_, ReduceOp::sum, stream()).wait();
    std::string fault = compare(output, expected, "sum");
    if (!fault.empty()) return fault;
    const at::Tensor in_place = part(input);
    on_.reduce_scatter(input.const_data_ptr(), in_place.data_ptr(), size(count), type_, ReduceOp::sum, stream()).wait();
    return compare(in_place, expected, "sum in place");
  }
  std::string all_gather(std::int64_t count) const {
    std::vector<at::Tensor> parts;
    for (int r = 0; r < on_.size(); ++r) parts.push_back(values_of(r, on_.size(), 0, count));
    const at::Tensor input = own(count), output = empty(count * on_.size()), in_place = empty(count * on_.size());
    on_.all_gather(input.const_data_ptr(), output.data_ptr(), size(count), type_, stream()).wait();
    std::string fault = compare(output, at::cat(parts), "parts");
    if (!fault.empty()) return fault;
    part(in_place).copy_(input);
    on_.all_gather(part(in_place).const_data_ptr(), in_place.data_ptr(), size(count), type_, stream()).wait();
    return compare(in_place, at::cat(parts), "parts in place");
  }
  std::string all_to_all(std::int64_t count) const {
    std::vector<at::Tensor> parts;
    for (int r = 0; r < on_.size(); ++r) parts.push_back(values_of(r, on_.size(), on_.rank() * count, count));
    const at::Tensor input = own(count * on_.size()), output = empty(count * on_.size());
    on_.all_to_all(input.const_data_ptr(), output.data_ptr(), size(count), type_, stream()).wait();
    return compare(output, at::cat(parts), "parts");
  }
  std::string broadcast(std::int64_t count) const {
    for (const int root : {0, on_.size() - 1}) {
      const at::Tensor data = own(count);
      on_.broadcast(data.data_ptr(), size(count), type_, root, stream()).wait();
      std::string fault = compare(data, values_of(root, on_.size(), 0, count), fmt::format("data of rank {}", root));
      if (!fault.empty()) return fault;
    }
    return {};
  }

 private:
  static std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }
  void* stream() const { return trainer::compute_stream(device_); }

  comm::Communicator& on_;
  at::Device device_;
  DataType type_;
};

}  // namespace

Finding check_collective(comm::Communicator& on, at::Device device, CollectiveName collective, DataType type) {
  const Buffers buffers(on, device, type);
  std::string first_fault;  // all lengths run in any case: the ranks must stay in step
  for (const std::int64_t count : kLengths) {
    std::string fault = collective == CollectiveName::all_reduce       ? buffers.all_reduce(count)
                        : collective == CollectiveName::reduce_scatter ? buffers.reduce_scatter(count)
                        : collective == CollectiveName::all_gather     ? buffers.all_gather(count)
                        : collective == CollectiveName::all_to_all     ? buffers.all_to_all(count)
                                                                       : buffers.broadcast(count);
    if (first_fault.empty()) first_fault = std::move(fault);
  }
  return first_fault.empty() ? Finding::pass() : Finding::fail(first_fault);
}

Finding check_large_sum(comm::Communicator& on, at::Device device, comm::Communicator& control) {
  constexpr std::int64_t kRows = 4096, kColumns = 4096, kElements = kRows * kColumns;
  const auto normals_of = [](int rank, std::int64_t first, std::int64_t rows) {
    std::vector<std::uint64_t> positions(static_cast<std::size_t>(rows));
    std::iota(positions.begin(), positions.end(), static_cast<std::uint64_t>(rank * kRows + first));
    return trainer::keyed_normal({.seed = 20, .purpose = trainer::Purpose::noise}, positions, {kColumns});
  };
  const auto sum = [&] {
    const at::Tensor data = normals_of(on.rank(), 0, kRows).to(device);
    on.all_reduce(data.data_ptr(), kElements, DataType::float32, ReduceOp::sum, trainer::compute_stream(device)).wait();
    return data.cpu();
  };
  const auto hash = [](const at::Tensor& data) {
    return std::stoll(data::sha256_hex(std::as_bytes(std::span(data.const_data_ptr<float>(), kElements))).substr(0, 15),
                      nullptr, 16);
  };
  const at::Tensor first = sum(), second = sum();
  // Each rank adds up some of the rows for itself; the ranks together all of them.
  const std::int64_t begin = kRows * on.rank() / on.size(), rows = kRows * (on.rank() + 1) / on.size() - begin;
  at::Tensor expected = at::zeros({rows, kColumns}, at::kDouble);
  for (int r = 0; r < on.size(); ++r) expected += normals_of(r, begin, rows);
  const double error = rows == 0 ? 0 : (first.narrow(0, begin, rows) - expected).abs().max().item<double>();
  const std::int64_t bits = hash(first);
  const bool same = control.all_reduce_value(bits, ReduceOp::min) == control.all_reduce_value(bits, ReduceOp::max);
  if (!(error < 1e-5 * on.size())) return Finding::fail(fmt::format("the sum of normals is off by {:.3g}", error));
  if (!same) return Finding::fail("the ranks hold different bits of the same sum: their weights would drift apart");
  if (hash(second) != bits) return Finding::fail("the same sum has other bits the second time");
  return Finding::pass();
}

Finding check_stream_order(comm::Communicator& on, at::Device device) {
  if (device.is_cpu()) return Finding::skip("the ranks compute on the CPU, which has no streams");
  constexpr std::int64_t kSide = 2048;
  const auto options = at::TensorOptions(device).dtype(at::kFloat);
  void* stream = trainer::compute_stream(device);
  for (int round = 1; round <= 10; ++round) {
    at::Tensor product = at::ones({kSide, kSide}, options);
    for (int i = 0; i < 8; ++i) product = at::mm(product, at::eye(kSide, options));  // keeps the stream busy
    product *= round;
    on.all_reduce(product.data_ptr(), kSide * kSide, DataType::float32, ReduceOp::sum, stream).join(stream);
    const double sum = (product - static_cast<double>(round) * on.size()).abs().sum().item<double>();
    if (sum != 0) return Finding::fail("an operation did not wait for its stream, or its stream not for it");
  }
  return Finding::pass();
}

}  // namespace perrin::launch
