#include "trainer/evaluate/reference_statistics.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/data_error.hpp"
#include "data/sha256.hpp"
#include "trainer/evaluate/batches_in_turn.hpp"
#include "trainer/interchange/npz.hpp"
#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

constexpr std::int64_t kBatch = 64;  // one size for all, so that statistics compare to the last bit

/// uint8 [kBatch, C, H, W]: the batch, filled up with images from the dataset's end backwards.
at::Tensor read_images(const data::Dataset& dataset, std::int64_t batch) {
  const auto size = static_cast<std::int64_t>(dataset.size());
  std::vector<std::uint64_t> indices;
  for (std::int64_t i = batch * kBatch; i < (batch + 1) * kBatch; ++i)
    indices.push_back(static_cast<std::uint64_t>(std::min(i, size - 1)));
  const data::ImageShape& shape = dataset.shape();
  at::Tensor images = at::empty({kBatch, shape.channels, shape.height, shape.width}, at::kByte);
  dataset.gather(indices, {images.mutable_data_ptr<std::uint8_t>(), static_cast<std::size_t>(images.numel())});
  return images;
}

nlohmann::json about(const ReferenceStatistics& statistics) {
  return {{"extractor", statistics.extractor.name},
          {"extractor_sha256", statistics.extractor.sha256},
          {"preprocessing", statistics.extractor.preprocessing},
          {"dataset", statistics.dataset},
          {"n", statistics.images}};
}

at::Tensor as_bytes(const std::string& text) {
  at::Tensor bytes = at::empty({static_cast<std::int64_t>(text.size())}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  return bytes;
}

/// The extractor that the file was made with, as far as it says.
void require_extractor(const std::filesystem::path& path, const ExtractorIdentity& made,
                       const ExtractorIdentity& wanted) {
  if (made.sha256 != wanted.sha256)
    throw RunError(
        fmt::format("{} was made with the extractor {} (SHA-256 {}), and the samples are seen by {} ({}); "
                    "make it again: perrin stats DATASET --extractor ...",
                    path.string(), made.name, made.sha256, wanted.name, wanted.sha256));
  if (made.preprocessing != wanted.preprocessing)
    throw RunError(
        fmt::format("{} was made of images prepared otherwise ('{}', and here '{}'), which is another metric; "
                    "make it again with `perrin stats`",
                    path.string(), made.preprocessing, wanted.preprocessing));
}

}  // namespace

std::optional<ReferenceStatistics> measure_reference(const data::Dataset& dataset, const FeatureExtractor& extractor,
                                                     comm::Communicator& control, const Narrator& narrate,
                                                     const Interrupt& interrupt) {
  const auto images = static_cast<std::int64_t>(dataset.size());
  if (images < 2) throw RunError(dataset.folder().string() + " holds a single image, which has no covariance");
  const std::int64_t batches = (images + kBatch - 1) / kBatch, kept = std::min(images, kReferenceFeatures);
  const std::int64_t dimension = extractor.extract(read_images(dataset, 0)).features.size(1);
  if (narrate && control.rank() == 0)
    narrate(fmt::format("reference: features of {} images of {}", images, dataset.folder().string()));

  FeatureStatistics statistics(dimension);
  at::Tensor features = at::empty({kept, dimension}, at::kFloat);
  std::int64_t taken = 0;
  const auto record_bytes = static_cast<std::size_t>(kBatch * dimension) * sizeof(float);
  const auto make = [&](std::int64_t batch, std::span<std::uint8_t> record) {
    const at::Tensor rows = extractor.extract(read_images(dataset, batch)).features.contiguous();
    std::memcpy(record.data(), rows.const_data_ptr(), record.size());
  };
  const auto take = [&](std::int64_t batch, std::span<const std::uint8_t> record) {
    const std::int64_t first = batch * kBatch, count = std::min(kBatch, images - first);
    at::Tensor rows = at::empty({kBatch, dimension}, at::kFloat);
    std::memcpy(rows.mutable_data_ptr(), record.data(), record.size());
    statistics.add(rows.narrow(0, 0, count));
    for (; taken < kept && taken * images / kept < first + count; ++taken)  // image floor(j n / m) is the j-th kept
      features[taken].copy_(rows[taken * images / kept - first]);
  };
  if (!batches_in_turn(control, 0, batches, record_bytes, make, take, interrupt)) return std::nullopt;
  if (control.rank() != 0) return ReferenceStatistics{};
  return ReferenceStatistics{.fit = fit_of(statistics),
                             .images = images,
                             .features = features,
                             .dataset = dataset.fingerprint(),
                             .extractor = extractor.identity()};
}

void write_reference(const std::filesystem::path& path, const ReferenceStatistics& statistics) {
  write_npz(path, {{"mu", statistics.fit.mu},
                   {"sigma", statistics.fit.sigma},
                   {"features", statistics.features},
                   {"n", at::scalar_tensor(statistics.images, at::kLong)},
                   {"perrin", as_bytes(about(statistics).dump())}});
}

void require_reference(const std::filesystem::path& path, const data::ImageShape& shape,
                       const FeatureExtractor& extractor) {
  if (!std::filesystem::is_directory(path)) {
    read_reference(path, extractor.identity());
  } else if (data::Dataset(path).shape() != shape) {
    throw RunError(path.string() +
                   " has images of another shape than the samples; name a dataset that was prepared like "
                   "the training images");
  }
}

std::optional<ReferenceStatistics> reference_at(const std::filesystem::path& path, const std::filesystem::path& cache,
                                                const FeatureExtractor& extractor, comm::Communicator& control,
                                                const Narrator& narrate, const Interrupt& interrupt) {
  const ExtractorIdentity& identity = extractor.identity();
  const bool root = control.rank() == 0;
  if (!std::filesystem::is_directory(path)) return root ? read_reference(path, identity) : ReferenceStatistics{};
  const data::Dataset dataset(path);
  const std::string name = data::sha256_hex(dataset.fingerprint() + identity.sha256 + identity.preprocessing);
  const std::filesystem::path kept = cache / ("reference-" + name.substr(0, 16) + ".npz");
  const auto say = [&](const std::string& line) {
    if (narrate) narrate(line);
  };
  // Rank 0 alone reads it, and what it finds is what all do.
  std::optional<ReferenceStatistics> statistics;
  if (root && std::filesystem::exists(kept)) {
    try {
      statistics = read_reference(kept, identity);
    } catch (const data::DataError& error) {
      say(fmt::format("{}; the reference is measured again", error.what()));
    }
  }
  if (control.all_reduce_value(std::int64_t{statistics.has_value()}, comm::ReduceOp::max) > 0)
    return root ? statistics : ReferenceStatistics{};
  statistics = measure_reference(dataset, extractor, control, narrate, interrupt);
  if (!statistics || !root) return statistics;
  try {
    std::filesystem::create_directories(cache);
    write_reference(kept, *statistics);
  } catch (const std::exception& error) {
    say(fmt::format("the statistics of the reference are not kept, and measured again by the next start: {}",
                    error.what()));
  }
  return statistics;
}

ReferenceStatistics read_reference(const std::filesystem::path& path, const ExtractorIdentity& extractor) {
  static const std::array<std::string, 4> kNames = {"mu", "sigma", "features", "perrin"};
  const auto arrays = read_npz(path, kNames);
  if (!arrays.contains("mu") || !arrays.contains("sigma"))
    throw data::DataError(path, "holds no mu and sigma; make reference statistics with `perrin stats`");
  ReferenceStatistics statistics;
  statistics.fit = {arrays.at("mu").to(at::kDouble), arrays.at("sigma").to(at::kDouble)};
  const std::int64_t dimension = statistics.fit.mu.numel();
  if (statistics.fit.mu.dim() != 1 || statistics.fit.sigma.sizes() != at::IntArrayRef({dimension, dimension}))
    throw data::DataError(path, "holds mu and sigma of shapes that do not belong together; make it again");
  if (!arrays.contains("perrin")) {
    if (!extractor.prefix.empty())
      throw RunError(
          fmt::format("{} does not say which extractor made it, so it is taken for one of the field's "
                      "Inception network, and the samples are seen by {}; make it again: perrin stats DATASET",
                      path.string(), extractor.name));
    statistics.extractor = extractor;
    return statistics;
  }
  const at::Tensor& text = arrays.at("perrin");
  try {
    const auto json =
        nlohmann::json::parse(std::string_view(static_cast<const char*>(text.const_data_ptr()), text.nbytes()));
    statistics.images = json.at("n");
    statistics.dataset = json.at("dataset");
    statistics.extractor = {.name = json.at("extractor"),
                            .sha256 = json.at("extractor_sha256"),
                            .preprocessing = json.at("preprocessing"),
                            .prefix = extractor.prefix};
  } catch (const nlohmann::json::exception& error) {
    throw data::DataError(path, std::string("does not say what made it (") + error.what() + "); make it again");
  }
  require_extractor(path, statistics.extractor, extractor);
  if (const auto found = arrays.find("features"); found != arrays.end()) statistics.features = found->second;
  return statistics;
}

}  // namespace perrin::trainer
