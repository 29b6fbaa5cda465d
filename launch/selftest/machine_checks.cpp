#include "launch/selftest/machine_checks.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <torch/csrc/autograd/autograd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "comm/comm_error.hpp"
#include "data/crc32c.hpp"
#include "data/file.hpp"
#include "data/sha256.hpp"
#include "launch/versions.hpp"
#include "trainer/diffusion/objective.hpp"
#include "trainer/diffusion/schedule.hpp"
#include "trainer/model/initialize.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/random/keyed_noise.hpp"
#include "trainer/random/philox.hpp"
#include "trainer/same_on_all_ranks.hpp"

namespace perrin::launch {
namespace {

namespace fs = std::filesystem;

/// SHA-256 of the numbers of random_numbers(), as made by the scalar code of the tests' machine.
constexpr const char* kRandomBits = "860b9c6416dffd842d81d2d097d59bef7019b08050efda7bb3666bd1fca382fc";

std::string hash_of(const at::Tensor& numbers) {
  return data::sha256_hex(
      std::as_bytes(std::span(numbers.const_data_ptr<float>(), static_cast<std::size_t>(numbers.numel()))));
}

/// 2 x 1,027 normals and dropout factors: more than a vector of any width, and not a whole number of them.
at::Tensor random_numbers() {
  const std::array<std::uint64_t, 2> positions = {0, (std::uint64_t{1} << 47) + 12'345};
  const at::Tensor normals =
      trainer::keyed_normal({.seed = 2020, .purpose = trainer::Purpose::noise}, positions, {1027});
  const at::Tensor factors = trainer::keyed_dropout(
      {.seed = 2020, .purpose = trainer::Purpose::dropout, .call_site = 7}, positions, {1027}, 0.9);
  return at::cat({normals, factors}).contiguous();
}

constexpr data::ImageShape kImage{3, 16, 16};
constexpr std::int64_t kImages = 4;

/// A loss and the gradients of all weights, joined.
struct Gradients {
  double loss = 0;
  at::Tensor joined;  // [parameters] float64 on the CPU
};

/// Of one batch of a small U-Net with attention, from weights, images and noise that are keyed.
Gradients training_step(at::Device device, at::ScalarType type) {
  const trainer::Config config = [] {
    trainer::Config small;
    small.model = {.block_out_channels = {32, 64},
                   .layers_per_block = 1,
                   .attention_resolutions = {8},
                   .norm_num_groups = 8,
                   .dropout = 0.1};
    return small;
  }();
  std::map<std::string, at::Tensor> weights;
  std::vector<at::Tensor> leaves;
  for (const trainer::ParameterSpec& spec : trainer::unet_parameters(config.model, kImage)) {
    at::Tensor values = at::empty(spec.shape, at::kFloat);
    trainer::initialize(spec, values, /*seed=*/1);
    leaves.push_back(values.to(device, type).requires_grad_());
    weights[spec.name] = leaves.back();
  }
  const trainer::UNet unet(config.model, kImage, [&](const std::string& name) { return weights.at(name); });
  std::vector<std::uint64_t> positions(kImages);
  std::iota(positions.begin(), positions.end(), 0);
  const auto normals = [&](std::uint64_t seed) {
    return trainer::keyed_normal({.seed = seed}, positions, {kImage.channels, kImage.height, kImage.width})
        .to(device, type);
  };
  const trainer::DiffusionProcess process{trainer::NoiseSchedule(config.diffusion), device};
  const trainer::Objective objective(config, process);
  std::vector<trainer::NoiseLevel> levels;
  for (const std::int64_t t : {10, 300, 600, 990}) levels.push_back(process.schedule().level(t));
  const trainer::Network network = [&](const at::Tensor& x, const at::Tensor& t) {
    return unet(x, t, {.positions = positions, .seed = 1, .training = true});
  };
  const at::Tensor loss =
      objective.terms(network, objective.noised(normals(2), normals(3), levels), levels).loss.mean();
  Gradients result{loss.item<double>(), {}};
  std::vector<at::Tensor> flat;
  for (const at::Tensor& gradient : torch::autograd::grad({loss}, leaves))
    flat.push_back(gradient.reshape({-1}).to(at::kCPU, at::kDouble));
  result.joined = at::cat(flat);
  return result;
}

/// Each rank writes a number through a shared mapping of a file of its own, and reads it back from the file.
std::string fault_of_mapping(const fs::path& path, int rank) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0 || ::ftruncate(descriptor, sizeof(int)) != 0)
    return "a file cannot be made: " + data::describe_errno(errno);
  void* memory = ::mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  ::close(descriptor);
  if (memory == MAP_FAILED) return "a file cannot be mapped shared: " + data::describe_errno(errno);
  *static_cast<int*>(memory) = rank + 1;
  ::munmap(memory, sizeof(int));
  const std::vector<std::byte> bytes = data::read_file(path);
  int found = 0;
  if (bytes.size() == sizeof(int)) std::memcpy(&found, bytes.data(), sizeof(int));
  return found == rank + 1 ? "" : "what is written through a shared mapping is not in the file";
}

}  // namespace

Finding check_same_versions(comm::World& world) {
  try {
    trainer::require_same_on_all_ranks(world.control(), versions(), "the versions",
                                       "start the same program everywhere");
  } catch (const comm::CommError& error) {  // thrown by all ranks together: they are still in step
    return Finding::fail(error.what());
  }
  return Finding::pass();
}

Finding check_known_answers() {
  if (data::sha256_hex("abc") != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    return Finding::fail("SHA-256 of \"abc\" is wrong (FIPS 180-4)");
  if (data::crc32c(std::as_bytes(std::span("123456789", 9))) != 0xe3069283u)
    return Finding::fail("CRC-32C of \"123456789\" is wrong (RFC 3720)");
  if (trainer::philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) !=
      trainer::PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1})
    return Finding::fail("Philox4x32-10 differs from the known answers of Random123");
  return Finding::pass();
}

Finding check_random_bits() {
  const std::string bits = hash_of(random_numbers());
  if (bits == kRandomBits) return Finding::pass();
  return Finding::fail("keyed normals have other bits here than elsewhere (" + bits +
                       "): seeds would not mean the same");
}

Finding check_training_step(at::Device device) {
  const Gradients found = training_step(device, at::kFloat), exact = training_step(at::kCPU, at::kDouble);
  const double loss_error = std::abs(found.loss / exact.loss - 1);
  const double gradient_error = ((found.joined - exact.joined).norm() / exact.joined.norm()).item<double>();
  // float32 itself is 1e-6 off here; TF32, which bind_device switches off, would be 1e-3.
  constexpr double kMost = 5e-5;
  if (loss_error < kMost && gradient_error < kMost) return Finding::pass();  // NaN fails
  return Finding::fail(fmt::format("loss off by {:.2g}, gradients by {:.2g} of float64's", loss_error, gradient_error));
}

Finding check_folder(const fs::path& folder, comm::World& world) {
  if (folder.empty()) return Finding::skip("name one with --directory to check its file system");
  const auto path_of = [&](int rank) { return folder / fmt::format("perrin-selftest-{}", rank); };
  std::string fault;
  try {
    fault = fault_of_mapping(folder / fmt::format("perrin-selftest-map-{}", world.rank()), world.rank());
    data::write_file_durably(path_of(world.rank()), std::to_string(world.rank()));
  } catch (const std::exception& error) {
    fault = error.what();
  }
  world.control().barrier().wait();
  for (int rank = 0; rank < world.size() && fault.empty(); ++rank) {
    try {
      if (data::read_text_file(path_of(rank)) != std::to_string(rank)) fault = "holds something else";
    } catch (const std::exception& error) {
      fault = fmt::format("what rank {} wrote is not seen here: {}", rank, error.what());
    }
  }
  world.control().barrier().wait();
  std::error_code ignored;
  fs::remove(path_of(world.rank()), ignored);
  fs::remove(folder / fmt::format("perrin-selftest-map-{}", world.rank()), ignored);
  return fault.empty() ? Finding::pass() : Finding::fail(fault);
}

}  // namespace perrin::launch
