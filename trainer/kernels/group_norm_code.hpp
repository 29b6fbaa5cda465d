#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "trainer/kernels/group_norm.hpp"
#include "trainer/kernels/group_norm_plan.hpp"
#include "trainer/kernels/sigmoid.hpp"

/// Forward and backward of group_norm.hpp for one kind of lanes; compiled once for each instruction set.
///
/// A sample is worked on slice by slice (whole groups that stay in the second-level cache), a slice tile by tile (some
/// pixels), a tile block by block: some vectors of channels whose sums stay in registers over the pixels of the tile.
/// Nothing is summed across lanes there: sums are kept for each channel and joined to groups afterwards, which costs
/// the same for 1 channel in a group as for 64.
///
/// Memory is read once. The rows of a slice lie a power of two apart, so that they share few sets of the cache: of 32
/// in 256 channels 64 KiB stay in 512. The first pass therefore packs x for the second. It asks for rows before it
/// comes to them, because the hardware's prefetch follows no such strides; the second pass of forward, bound by its
/// exponentials, has memory send the next slice meanwhile.
namespace perrin::trainer::group_norm_code {

// Sums of float32 run over this many pixels and are then added to those of the earlier tiles: 64 + 16 roundings for
// 32x32 pixels, not 1024.
inline constexpr std::int64_t kTilePixels = 64;

// Rows between a request to memory and their use.
inline constexpr std::int64_t kReadAhead = 16, kWriteAhead = 4;

/// The rows of a tile: `pixels` of them, `stride` elements apart.
template <typename T>
struct Rows {
  T* first;
  std::int64_t stride;
};

/// V vectors in lockstep, so that their exponentials, each a chain of some 50 cycles, overlap.
template <typename Lanes, int V>
struct Block {
  Lanes at[V];

  template <typename Make>
  static Block each(const Make& make) {
    // Written out: what a loop indexes, g++ keeps in memory.
    if constexpr (V == 1) return {make(0)};
    if constexpr (V == 2) return {make(0), make(1)};
    if constexpr (V == 4) return {make(0), make(1), make(2), make(3)};
  }
  static Block all(float number) {
    return each([&](int) { return Lanes::all(number); });
  }
  friend Block operator+(const Block& a, const Block& b) {
    return each([&](int v) { return a.at[v] + b.at[v]; });
  }
  friend Block operator-(const Block& a, const Block& b) {
    return each([&](int v) { return a.at[v] - b.at[v]; });
  }
  friend Block operator*(const Block& a, const Block& b) {
    return each([&](int v) { return a.at[v] * b.at[v]; });
  }
  friend Block operator/(const Block& a, const Block& b) {
    return each([&](int v) { return a.at[v] / b.at[v]; });
  }
  static Block fma(const Block& a, const Block& b, const Block& c) {
    return each([&](int v) { return Lanes::fma(a.at[v], b.at[v], c.at[v]); });
  }
  static Block min(const Block& a, const Block& b) {
    return each([&](int v) { return Lanes::min(a.at[v], b.at[v]); });
  }
  static Block max(const Block& a, const Block& b) {
    return each([&](int v) { return Lanes::max(a.at[v], b.at[v]); });
  }
  static Block add_to_exponent(const Block& a, const Block& b) {
    return each([&](int v) { return Lanes::add_to_exponent(a.at[v], b.at[v]); });
  }
};

/// V > 0: V whole vectors of channels. V = 0: one vector, of which only the first `count` lanes are there.
template <typename Lanes, int V>
struct Vectors {
  static constexpr int kVectors = V == 0 ? 1 : V;
  using Numbers = Block<Lanes, kVectors>;
  int count;

  template <typename T>
  Numbers load(const T* from) const {
    if constexpr (V == 0) return {Lanes::load(from, count)};
    return Numbers::each([&](int v) { return Lanes::load(from + v * Lanes::kCount); });
  }
  template <typename T>
  void store(const Numbers& numbers, T* to) const {
    if constexpr (V == 0)
      numbers.at[0].store(to, count);
    else
      for (int v = 0; v < kVectors; ++v) numbers.at[v].store(to + v * Lanes::kCount);
  }
  template <typename T>
  Numbers load(Rows<T> rows, std::int64_t pixel) const {
    return load(rows.first + pixel * rows.stride);
  }
  template <typename T>
  void store(const Numbers& numbers, Rows<T> rows, std::int64_t pixel) const {
    store(numbers, rows.first + pixel * rows.stride);
  }
  void add_to(float* to, const Numbers& numbers) const { store(load(to) + numbers, to); }
  /// Has memory send a row to the second-level cache, to be written where T is not const; it may lie behind the last.
  template <typename T>
  void fetch(Rows<T> rows, std::int64_t pixel) const {
    constexpr std::int64_t kLine = 64, kElement = sizeof(T);
    const auto row =
        reinterpret_cast<std::uintptr_t>(rows.first) + static_cast<std::uintptr_t>(pixel * rows.stride * kElement);
    for (std::int64_t byte = 0; byte < kVectors * Lanes::kCount * kElement; byte += kLine)
      __builtin_prefetch(reinterpret_cast<const void*>(row + static_cast<std::uintptr_t>(byte)),
                         std::is_const_v<T> ? 0 : 1, 2);
  }
};

/// Calls work(channels) with the Vectors that fit a block.
template <typename Lanes, typename Work>
void with_vectors(const ChannelBlock& block, const Work& work) {
  if (block.count < Lanes::kCount) return work(Vectors<Lanes, 0>{static_cast<int>(block.count)});
  if constexpr (Lanes::kVectorsAtOnce >= 4)
    if (block.count == 4 * Lanes::kCount) return work(Vectors<Lanes, 4>{});
  if constexpr (Lanes::kVectorsAtOnce >= 2)
    if (block.count == 2 * Lanes::kCount) return work(Vectors<Lanes, 2>{});
  work(Vectors<Lanes, 1>{});
}

/// What the channels of a block have in scratch memory, from the block's first one on.
template <typename Lanes>
struct ChannelNumbers {
  // u = (x factor + offset) gain + bias; x factor + offset is the normalised x.
  float *factor, *offset, *gain, *bias;
  // Sums over pixels. Forward: of x - origin, and of its square. Backward: of du, of du times the normalised x, and of
  // the normalised x.
  float *origin, *sum0, *sum1, *sum2;
  // dx = du of_du + x of_x + constant.
  float *of_du, *of_x, *constant;

  static ChannelNumbers in(float* scratch, std::int64_t stride) {
    ChannelNumbers n;
    float** arrays[kChannelArrays] = {&n.factor, &n.offset, &n.gain,  &n.bias, &n.origin,  &n.sum0,
                                      &n.sum1,   &n.sum2,   &n.of_du, &n.of_x, &n.constant};
    for (int i = 0; i < kChannelArrays; ++i) *arrays[i] = scratch + i * stride;
    return n;
  }
  ChannelNumbers from(std::int64_t channel) const {
    return {factor + channel, offset + channel, gain + channel,  bias + channel, origin + channel,  sum0 + channel,
            sum1 + channel,   sum2 + channel,   of_du + channel, of_x + channel, constant + channel};
  }
};

template <typename Lanes, typename Channels, typename T>
[[gnu::flatten]] void add_moments(Channels channels, Rows<const T> x, Rows<T> packed, std::int64_t pixels,
                                  const ChannelNumbers<Lanes>& numbers) {
  using Numbers = typename Channels::Numbers;
  const Numbers origin = channels.load(numbers.origin);
  Numbers sum = Numbers::all(0), squares = Numbers::all(0);
  for (std::int64_t p = 0; p < pixels; ++p) {
    channels.fetch(x, p + kReadAhead);
    const Numbers value = channels.load(x, p), d = value - origin;
    if (packed.first != nullptr) channels.store(value, packed, p);
    sum = sum + d;
    squares = Numbers::fma(d, d, squares);
  }
  channels.add_to(numbers.sum0, sum);
  channels.add_to(numbers.sum1, squares);
}

/// Bits of the dropout mask of a block: bit i of bits[v * stride + p] is channel 16 v + i of pixel p.
struct KeptBits {
  const std::uint16_t* bits;
  std::int64_t stride;
  float factor;

  template <typename Lanes, int V>
  Block<Lanes, V> drop(const Block<Lanes, V>& numbers, std::int64_t pixel) const {
    if (bits == nullptr) return numbers;
    return Block<Lanes, V>::each(
        [&](int v) { return Lanes::where(bits[v * stride + pixel], numbers.at[v] * Lanes::all(factor)); });
  }
};

/// y = dropout(activation(x factor + offset)), for which gain and bias are already in factor and offset.
template <typename Lanes, typename Channels, typename T>
[[gnu::flatten]] void apply(Channels channels, Rows<const T> x, Rows<T> y, Rows<const T> next, std::int64_t pixels,
                            const ChannelNumbers<Lanes>& numbers, bool is_silu, const KeptBits& kept) {
  using Numbers = typename Channels::Numbers;
  const Numbers factor = channels.load(numbers.factor), offset = channels.load(numbers.offset);
  for (std::int64_t p = 0; p < pixels; ++p) {
    channels.fetch(next, p);
    channels.fetch(y, p + kWriteAhead);
    Numbers u = Numbers::fma(channels.load(x, p), factor, offset);
    if (is_silu) u = silu(u);
    channels.store(kept.drop(u, p), y, p);
  }
}

/// du and its sums; silu'(u) = s (1 + u (1 - s)) with s = sigmoid(u).
template <typename Lanes, typename Channels, typename T>
[[gnu::flatten]] void through_activation(Channels channels, Rows<const T> x, Rows<const T> dy, Rows<T> packed,
                                         Rows<float> du, Rows<T> dx, std::int64_t pixels,
                                         const ChannelNumbers<Lanes>& numbers, bool is_silu, const KeptBits& kept) {
  using Numbers = typename Channels::Numbers;
  const Numbers one = Numbers::all(1);
  Numbers du_sum = Numbers::all(0), du_x_sum = du_sum, x_sum = du_sum;
  for (std::int64_t p = 0; p < pixels; ++p) {
    channels.fetch(x, p + kReadAhead);
    channels.fetch(dy, p + kReadAhead);
    channels.fetch(dx, p + kWriteAhead);
    const Numbers value = channels.load(x, p);
    if (packed.first != nullptr) channels.store(value, packed, p);
    const Numbers normal = Numbers::fma(value, channels.load(numbers.factor), channels.load(numbers.offset));
    Numbers d = kept.drop(channels.load(dy, p), p);
    if (is_silu) {
      const Numbers u = Numbers::fma(normal, channels.load(numbers.gain), channels.load(numbers.bias));
      const Numbers s = sigmoid(u);
      d = (d * s) * Numbers::fma(u, one - s, one);
    }
    du_sum = du_sum + d;
    du_x_sum = Numbers::fma(d, normal, du_x_sum);
    x_sum = x_sum + normal;
    channels.store(d, du, p);
  }
  channels.add_to(numbers.sum0, du_sum);
  channels.add_to(numbers.sum1, du_x_sum);
  channels.add_to(numbers.sum2, x_sum);
}

template <typename Lanes, typename Channels, typename T>
[[gnu::flatten]] void through_norm(Channels channels, Rows<const T> x, Rows<float> du, Rows<const T> residual,
                                   Rows<T> dx, std::int64_t pixels, const ChannelNumbers<Lanes>& numbers) {
  using Numbers = typename Channels::Numbers;
  for (std::int64_t p = 0; p < pixels; ++p) {
    Numbers d = Numbers::fma(channels.load(x, p), channels.load(numbers.of_x), channels.load(numbers.constant));
    d = Numbers::fma(channels.load(du, p), channels.load(numbers.of_du), d);
    if (residual.first != nullptr) d = d + channels.load(residual, p);
    channels.store(d, dx, p);
  }
}

/// What is done to one slice.
template <typename Lanes, typename T>
class SliceNorm {
 public:
  SliceNorm(const GroupNormShape& shape, const GroupNormParameters& parameters, float* scratch, const Slice& slice)
      : shape_(shape),
        parameters_(parameters),
        sample_(slice.sample),
        begin_(slice.begin),
        end_(slice.end),
        numbers_(ChannelNumbers<Lanes>::in(from_line(scratch), padded_channels(shape))),
        du_(from_line(scratch) + kChannelArrays * padded_channels(shape)),
        packed_(reinterpret_cast<T*>(du_ + shape.pixels * slice_channels(shape))) {}

  /// @param next  the slice that this thread comes to afterwards
  void forward(const GroupNormForward<T>& tensors, const Slice& next) const {
    const bool is_silu = parameters_.activation == Activation::silu;
    take_origin(tensors.x);
    for_blocks([&](auto channels, const ChannelBlock& block, std::int64_t pixel, std::int64_t pixels) {
      add_moments<Lanes>(channels, rows(tensors.x, block, pixel), packed(block, pixel), pixels,
                         numbers_.from(block.channel));
    });
    finish_moments(tensors);
    for_blocks([&](auto channels, const ChannelBlock& block, std::int64_t pixel, std::int64_t pixels) {
      apply<Lanes>(channels, again(tensors.x, block, pixel), joined_rows(tensors.y, block, pixel),
                   rows_of(next, tensors.x, block, pixel), pixels, numbers_.from(block.channel), is_silu,
                   kept(block, pixel));
    });
  }

  void backward(const GroupNormBackward<T>& tensors) const {
    const bool is_silu = parameters_.activation == Activation::silu;
    take_normalisation(tensors.mean, tensors.rstd);
    for_blocks([&](auto channels, const ChannelBlock& block, std::int64_t pixel, std::int64_t pixels) {
      through_activation<Lanes>(channels, rows(tensors.x, block, pixel), joined_rows(tensors.dy, block, pixel),
                                packed(block, pixel), in_slice(du_, block, pixel), rows(tensors.dx, block, pixel),
                                pixels, numbers_.from(block.channel), is_silu, kept(block, pixel));
    });
    finish_sums(tensors);
    for_blocks([&](auto channels, const ChannelBlock& block, std::int64_t pixel, std::int64_t pixels) {
      const bool has_residual = tensors.residual[block.source] != nullptr;
      through_norm<Lanes>(channels, again(tensors.x, block, pixel), in_slice(du_, block, pixel),
                          has_residual ? rows(tensors.residual, block, pixel) : Rows<const T>{},
                          rows(tensors.dx, block, pixel), pixels, numbers_.from(block.channel));
    });
  }

 private:
  static float* from_line(float* scratch) {
    constexpr std::uintptr_t kLine = kScratchLine * sizeof(float);
    return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(scratch) + kLine - 1) / kLine * kLine);
  }

  /// Calls work(channels, block, first pixel, pixels) for every block of every tile.
  template <typename Work>
  void for_blocks(const Work& work) const {
    for (std::int64_t pixel = 0; pixel < shape_.pixels; pixel += kTilePixels) {
      const std::int64_t left = shape_.pixels - pixel;
      for (std::int64_t channel = begin_; channel < end_;) {
        const ChannelBlock block = channel_block(shape_, channel, end_, Lanes::kVectorsAtOnce);
        with_vectors<Lanes>(
            block, [&](auto channels) { work(channels, block, pixel, left < kTilePixels ? left : kTilePixels); });
        channel += block.count;
      }
    }
  }

  /// The rows of a block in an array of this slice alone.
  template <typename Element>
  Rows<Element> in_slice(Element* array, const ChannelBlock& block, std::int64_t pixel) const {
    return {array + pixel * (end_ - begin_) + block.channel - begin_, end_ - begin_};
  }
  bool packs() const { return end_ - begin_ < shape_.channels; }  // else x is packed as it is
  Rows<T> packed(const ChannelBlock& block, std::int64_t pixel) const {
    return packs() ? in_slice(packed_, block, pixel) : Rows<T>{};
  }
  /// x for the second time.
  Rows<const T> again(const T* const (&x)[2], const ChannelBlock& block, std::int64_t pixel) const {
    return packs() ? in_slice<const T>(packed_, block, pixel) : rows(x, block, pixel);
  }
  /// x where another slice has what this one has in the block.
  Rows<const T> rows_of(const Slice& other, const T* const (&x)[2], const ChannelBlock& block,
                        std::int64_t pixel) const {
    const std::int64_t channel = other.begin + block.channel - begin_;
    const ChannelBlock there =
        channel_block(shape_, channel < other.end ? channel : other.begin, other.end, Lanes::kVectorsAtOnce);
    return {x[there.source] + (other.sample * shape_.pixels + pixel) * there.source_channels + there.source_channel,
            there.source_channels};
  }

  /// The rows of a block in the one of two tensors in which it lies.
  template <typename Element>
  Rows<Element> rows(Element* const (&tensors)[2], const ChannelBlock& block, std::int64_t pixel) const {
    return {tensors[block.source] + (sample_ * shape_.pixels + pixel) * block.source_channels + block.source_channel,
            block.source_channels};
  }
  /// The same in a tensor of all channels.
  template <typename Element>
  Rows<Element> joined_rows(Element* tensor, const ChannelBlock& block, std::int64_t pixel) const {
    return {tensor + (sample_ * shape_.pixels + pixel) * shape_.channels + block.channel, shape_.channels};
  }

  KeptBits kept(const ChannelBlock& block, std::int64_t pixel) const {
    if (parameters_.kept == nullptr) return {};
    const std::int64_t vectors = (shape_.channels + Lanes::kCount - 1) / Lanes::kCount;
    return {parameters_.kept + (sample_ * vectors + block.channel / Lanes::kCount) * shape_.pixels + pixel,
            shape_.pixels, parameters_.keep_factor};
  }

  // The first pixel: sums of differences from it lose nothing where the mean is large beside the deviation.
  void take_origin(const T* const (&x)[2]) const {
    for (std::int64_t channel = begin_; channel < end_;) {
      const ChannelBlock block = channel_block(shape_, channel, end_, 1);
      const T* pixel = rows(x, block, 0).first;
      const int count = static_cast<int>(block.count);
      Lanes::load(pixel, count).store(numbers_.origin + channel, count);
      Lanes::all(0).store(numbers_.sum0 + channel, count);
      Lanes::all(0).store(numbers_.sum1 + channel, count);
      channel += block.count;
    }
  }

  struct Modulation {
    float add, gain, bias;
  };
  /// Of a channel: u = normal gain + bias, of x + add.
  Modulation modulation(std::int64_t channel) const {
    const std::int64_t at = sample_ * shape_.channels + channel;
    Modulation m{parameters_.add != nullptr ? parameters_.add[at] : 0.0F, parameters_.gamma[channel],
                 parameters_.beta[channel]};
    if (parameters_.scale != nullptr) {
      const float factor = 1.0F + parameters_.scale[at];
      m.gain *= factor;
      m.bias = __builtin_fmaf(m.bias, factor, parameters_.shift[at]);
    }
    return m;
  }

  void finish_moments(const GroupNormForward<T>& tensors) const {
    const std::int64_t width = shape_.channels / shape_.groups;
    const double pixels = static_cast<double>(shape_.pixels), count = pixels * static_cast<double>(width);
    for (std::int64_t from = begin_; from < end_; from += width) {
      // In float64: the parallel algorithm of Chan, Golub & LeVeque, over the channels of the group.
      double mean = 0, squares = 0;
      for (std::int64_t c = from; c < from + width; ++c) mean += channel_mean(c);
      mean /= static_cast<double>(width);
      for (std::int64_t c = from; c < from + width; ++c) {
        const double away = channel_mean(c) - mean;
        const double sum = numbers_.sum0[c];
        squares += numbers_.sum1[c] - sum * sum / pixels + pixels * (away * away);
      }
      const double variance = squares > 0 ? squares / count : squares * 0;  // NaN stays
      const double rstd = 1.0 / __builtin_sqrt(variance + static_cast<double>(tensors.eps));
      const std::int64_t group = sample_ * shape_.groups + from / width;
      tensors.mean[group] = static_cast<float>(mean);
      tensors.rstd[group] = static_cast<float>(rstd);
      for (std::int64_t c = from; c < from + width; ++c) {
        const Modulation m = modulation(c);
        const double factor = rstd * m.gain;
        numbers_.factor[c] = static_cast<float>(factor);
        numbers_.offset[c] = static_cast<float>((m.add - mean) * factor + m.bias);
      }
    }
  }

  /// Of x + add.
  double channel_mean(std::int64_t channel) const {
    const double add = parameters_.add != nullptr ? parameters_.add[sample_ * shape_.channels + channel] : 0.0F;
    return numbers_.origin[channel] + add + numbers_.sum0[channel] / static_cast<double>(shape_.pixels);
  }

  void take_normalisation(const float* mean, const float* rstd) const {
    const std::int64_t width = shape_.channels / shape_.groups;
    for (std::int64_t from = begin_; from < end_; from += width) {
      const std::int64_t group = sample_ * shape_.groups + from / width;
      for (std::int64_t c = from; c < from + width; ++c) {
        const Modulation m = modulation(c);
        numbers_.factor[c] = rstd[group];
        numbers_.offset[c] = (m.add - mean[group]) * rstd[group];
        numbers_.gain[c] = m.gain;
        numbers_.bias[c] = m.bias;
        numbers_.sum0[c] = numbers_.sum1[c] = numbers_.sum2[c] = 0;
      }
    }
  }

  // dx = rstd (g - mean(g) - normal mean(g normal)), g = du gain, means over the group.
  void finish_sums(const GroupNormBackward<T>& tensors) const {
    const std::int64_t width = shape_.channels / shape_.groups;
    const double pixels = static_cast<double>(shape_.pixels), count = pixels * static_cast<double>(width);
    for (std::int64_t from = begin_; from < end_; from += width) {
      double mean = 0, mean_x = 0;
      for (std::int64_t c = from; c < from + width; ++c) {
        mean += static_cast<double>(numbers_.gain[c]) * numbers_.sum0[c];
        mean_x += static_cast<double>(numbers_.gain[c]) * numbers_.sum1[c];
      }
      mean /= count;
      mean_x /= count;
      const double rstd = tensors.rstd[sample_ * shape_.groups + from / width];
      for (std::int64_t c = from; c < from + width; ++c) {
        const std::int64_t at = sample_ * shape_.channels + c;
        tensors.du_sum[at] = numbers_.sum0[c];
        tensors.du_x_sum[at] = numbers_.sum1[c];
        const double gain = numbers_.gain[c];
        numbers_.of_du[c] = static_cast<float>(rstd * gain);
        numbers_.of_x[c] = static_cast<float>(-rstd * mean_x * rstd);
        numbers_.constant[c] = static_cast<float>(-rstd * (mean + mean_x * numbers_.offset[c]));
        if (tensors.dadd != nullptr)
          tensors.dadd[at] = static_cast<float>(
              rstd * (gain * numbers_.sum0[c] - pixels * mean - mean_x * static_cast<double>(numbers_.sum2[c])));
      }
    }
  }

  const GroupNormShape& shape_;
  const GroupNormParameters& parameters_;
  std::int64_t sample_, begin_, end_;
  ChannelNumbers<Lanes> numbers_;
  float* du_;  // [pixels, channels of the slice]
  T* packed_;  // x likewise, where a slice is not the whole row
};

template <typename Lanes, typename T>
void forward(const GroupNormShape& shape, const GroupNormParameters& parameters, const GroupNormForward<T>& tensors,
             const GroupNormRange& range) {
  const std::int64_t slices = slices_of_sample(shape), end = range.end * slices;
  for (std::int64_t i = range.begin * slices; i < end; ++i)
    SliceNorm<Lanes, T>(shape, parameters, range.scratch, slice(shape, i))
        .forward(tensors, slice(shape, i + 1 < end ? i + 1 : i));
}

template <typename Lanes, typename T>
void backward(const GroupNormShape& shape, const GroupNormParameters& parameters, const GroupNormBackward<T>& tensors,
              const GroupNormRange& range) {
  const std::int64_t slices = slices_of_sample(shape);
  for (std::int64_t i = range.begin * slices; i < range.end * slices; ++i)
    SliceNorm<Lanes, T>(shape, parameters, range.scratch, slice(shape, i)).backward(tensors);
}

}  // namespace perrin::trainer::group_norm_code
