#include "trainer/optimize/gradient_norm.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <numeric>
#include <span>
#include <stdexcept>
#include <vector>

#include "trainer/kernels/optimizer_pass.hpp"
#include "trainer/optimize/parameter_arena.hpp"

namespace perrin::trainer {
namespace {

/// The sum of squares of each block of a flat buffer; `sums` has a place for each.
void sum_blocks(const at::Tensor& flat, std::span<double> sums) {
  if (!flat.is_cpu()) {
    const at::Tensor norms = at::linalg_vector_norm(flat.view({-1, kNormBlock}), 2, {{1}}, false, at::kDouble);
    const at::Tensor on_host = norms.square().cpu();
    std::copy_n(on_host.const_data_ptr<double>(), sums.size(), sums.begin());
    return;
  }
  const float* values = flat.const_data_ptr<float>();
  at::parallel_for(0, static_cast<std::int64_t>(sums.size()), 16, [&](std::int64_t begin, std::int64_t end) {
    sums_of_squares(values + begin * kNormBlock, kNormBlock, end - begin, sums.data() + begin);
  });
}

std::size_t blocks_of(std::int64_t elements) { return static_cast<std::size_t>(elements / kNormBlock); }

double norm_of(const std::vector<double>& sums) { return std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0)); }

}  // namespace

double gradient_norm(const at::Tensor& flat) {
  if (flat.numel() % kNormBlock != 0) throw std::invalid_argument("the gradients are no whole number of norm blocks");
  std::vector<double> sums(blocks_of(flat.numel()));
  sum_blocks(flat, sums);
  return norm_of(sums);
}

double gradient_norm(const ParameterArena& arena, comm::Communicator& control) {
  const ShardPlan& plan = arena.plan();
  if (!plan.sharded()) return gradient_norm(arena.gradients());
  std::vector<double> own(blocks_of(plan.state_size())), gathered(blocks_of(plan.size()));
  for (const Segment& segment : plan.own())
    sum_blocks(arena.gradients().narrow(0, segment.arena_offset, segment.count),
               std::span(own).subspan(blocks_of(segment.state_offset), blocks_of(segment.count)));
  control.all_gather(std::span<const double>(own), std::span<double>(gathered)).wait();

  std::vector<double> sums(gathered.size());  // in the order of the arena, whoever owns a block
  for (int rank = 0; rank < plan.ranks(); ++rank)
    for (const Segment& segment : plan.segments_of(rank))
      std::copy_n(gathered.begin() + rank * (plan.state_size() / kNormBlock) + segment.state_offset / kNormBlock,
                  segment.count / kNormBlock, sums.begin() + segment.arena_offset / kNormBlock);
  return norm_of(sums);
}

}  // namespace perrin::trainer
