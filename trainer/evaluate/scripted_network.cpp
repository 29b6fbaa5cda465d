#include "trainer/evaluate/scripted_network.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/passes/tensorexpr_fuser.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cctype>
#include <stdexcept>
#include <vector>

#include "data/data_error.hpp"
#include "data/sha256.hpp"
#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

/// NVIDIA's inception-2015-12-05.pt, the network of the published FID.
constexpr std::string_view kInceptionSha256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4";

/// The hash of the file. @throws RunError unless it is the one that was given
std::string require_sha256(const std::filesystem::path& path, const std::string& given) {
  std::string found;
  try {
    found = data::sha256_of_file(path);
  } catch (const data::DataError& error) {
    throw RunError(std::string("the extractor cannot be read: ") + error.what());
  }
  if (given.empty())
    throw RunError("the extractor " + path.string() + " has SHA-256 " + found +
                   "; a TorchScript file is code, so give this hash if it is the file that you mean");
  if (given != found)
    throw RunError("the extractor " + path.string() + " has SHA-256 " + found + ", not " + given +
                   " as given; name the other file, or its own hash");
  return found;
}

/// "dinov2_" of "DINOv2.pt": letters and digits of the name.
std::string prefix_of(const std::filesystem::path& path) {
  std::string prefix;
  for (const unsigned char c : path.stem().string())
    prefix += std::isalnum(c) != 0 ? static_cast<char>(std::tolower(c)) : '_';
  return prefix + "_";
}

}  // namespace

struct ScriptedNetwork::Module {
  torch::jit::Module module;
  bool returns_features = false;  // by that argument
  bool returns_classes = false;   // by the argument no_output_bias
};

ScriptedNetwork::ScriptedNetwork(const std::filesystem::path& path, const std::string& sha256, at::Device device)
    : module_(std::make_unique<Module>()), device_(device) {
  const std::string found = require_sha256(path, sha256);
  torch::jit::getProfilingMode() = false;
  torch::jit::setTensorExprFuserEnabled(false);
  try {
    module_->module = torch::jit::load(path.string(), device);
    module_->module.eval();
    const auto& arguments = module_->module.get_method("forward").function().getSchema().arguments();
    const auto takes = [&](const std::string& name) {
      return std::any_of(arguments.begin(), arguments.end(),
                         [&](const c10::Argument& argument) { return argument.name() == name; });
    };
    module_->returns_features = takes("return_features");
    module_->returns_classes = module_->returns_features && takes("no_output_bias");
  } catch (const c10::Error& error) {
    throw RunError("the extractor " + path.string() + " is no TorchScript module with a forward (" +
                   error.what_without_backtrace() + "); save it with torch.jit.save");
  }
  const bool inception = found == kInceptionSha256;
  identity_ = {.name = inception ? "inception-2015-12-05" : path.filename().string(),
               .sha256 = found,
               .preprocessing = "in the file, of uint8 with three channels",
               .prefix = inception ? "" : prefix_of(path)};
}

ScriptedNetwork::~ScriptedNetwork() = default;

ImageFeatures ScriptedNetwork::extract(const at::Tensor& images) const {
  if (images.dim() != 4 || images.scalar_type() != at::kByte || (images.size(1) != 1 && images.size(1) != 3))
    throw std::invalid_argument("an extractor takes uint8 [N, C, H, W] with C = 1 or 3");
  const at::NoGradGuard no_grad;
  const at::Tensor pixels = images.to(device_).expand({-1, 3, -1, -1}).contiguous();
  const auto as_features = [](const at::Tensor& values) { return values.to(at::kFloat).cpu(); };
  ImageFeatures found;
  try {
    torch::jit::Kwargs options;
    if (module_->returns_features) options["return_features"] = true;
    const c10::IValue output = module_->module.forward({pixels}, options);
    if (output.isTuple() && output.toTupleRef().elements().size() == 2) {
      found = {as_features(output.toTupleRef().elements()[0].toTensor()),
               as_features(output.toTupleRef().elements()[1].toTensor())};
    } else {
      found.features = as_features(output.toTensor());
    }
    if (module_->returns_classes)
      found.probabilities = as_features(module_->module.forward({pixels}, {{"no_output_bias", true}}).toTensor());
  } catch (const std::exception& error) {  // TorchScript's own errors are of several types
    throw RunError("the extractor " + identity_.name + " failed: " + error.what());
  }
  const auto rows = [&](const at::Tensor& values) { return values.dim() == 2 && values.size(0) == images.size(0); };
  if (!rows(found.features) || (found.probabilities.defined() && !rows(found.probabilities)))
    throw RunError("the extractor " + identity_.name + " does not give one row of numbers for each image, but " +
                   c10::str(found.features.sizes()) + " for " + std::to_string(images.size(0)) + " images");
  return found;
}

}  // namespace perrin::trainer
