#pragma once

#include <ATen/core/Tensor.h>

namespace perrin::launch {

/// What the memory of this machine gives: a copy between two buffers far larger than the caches, by LibTorch's threads,
/// in which each byte crosses twice, once read and once written.
class CopyBandwidth {
 public:
  CopyBandwidth();
  /// Bytes a second, those read and those written, of one copy of everything.
  double measure();

 private:
  at::Tensor from_, to_;
};

}  // namespace perrin::launch
