#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <map>
#include <stdexcept>

#include "data/data_error.hpp"
#include "tests/trainer/temporary_folder.hpp"
#include "trainer/interchange/diffusers_export.hpp"
#include "trainer/interchange/safetensors.hpp"
#include "trainer/model/initialize.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {
namespace {

namespace fs = std::filesystem;

// That the real diffusers loads the folder and computes the same is shown in test_export_oracle.py; here, what it must
// refuse.
class ExportTest : public testing::Test {
 protected:
  ExportTest() {
    for (const ParameterSpec& spec : unet_parameters(model, shape)) {
      weights[spec.name] = at::empty(spec.shape);
      initialize(spec, weights[spec.name], 1);
    }
  }
  void export_to(const fs::path& path) const {
    export_diffusers(path, model, DiffusionConfig{}, shape, weights, {.metadata = {{"step", "3"}}, .facts = {}});
  }

  std::vector<std::string> left_behind() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder.path())) {
      names.push_back(entry.path().filename());
    }
    return names;
  }

  const ModelConfig model{
      .block_out_channels = {8, 16}, .layers_per_block = 1, .attention_resolutions = {4}, .norm_num_groups = 4};
  const data::ImageShape shape{1, 8, 8};
  const test::TemporaryFolder folder;
  std::map<std::string, at::Tensor> weights;
};

TEST_F(ExportTest, WritesItsFilesAndNothingElse) {
  export_to(folder.path() / "out");
  EXPECT_THAT(left_behind(), testing::ElementsAre("out"));
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder.path() / "out")) {
    if (entry.is_regular_file()) {
      files.push_back(fs::relative(entry.path(), folder.path() / "out"));
    }
  }
  EXPECT_THAT(files, testing::UnorderedElementsAre("model_index.json", "unet/config.json",
                                                   "unet/diffusion_pytorch_model.safetensors",
                                                   "scheduler/scheduler_config.json", "README.md"));
  const auto read = read_safetensors(folder.path() / "out" / "unet" / "diffusion_pytorch_model.safetensors");
  ASSERT_EQ(read.size(), weights.size());
  for (const auto& [name, tensor] : weights) {
    EXPECT_TRUE(read.at(name).equal(tensor)) << name;
  }
}

TEST_F(ExportTest, AFolderThatExistsStaysAsItIs) {
  fs::create_directory(folder.path() / "out");
  EXPECT_THROW(export_to(folder.path() / "out"), data::DataError);
  EXPECT_THROW(export_to(folder.path() / "out" / ""), data::DataError);
  EXPECT_THAT(left_behind(), testing::ElementsAre("out"));
  EXPECT_TRUE(fs::is_empty(folder.path() / "out"));
}

TEST_F(ExportTest, WeightsThatAreNotFiniteAreRefused) {
  weights["conv_out.weight"][0][0][0][0] = std::numeric_limits<float>::quiet_NaN();
  try {
    export_to(folder.path() / "out");
    FAIL() << "NaN was exported";
  } catch (const data::DataError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("conv_out.weight"));
  }
  EXPECT_THAT(left_behind(), testing::IsEmpty());
}

TEST_F(ExportTest, MissingOrForeignParametersAreRefused) {
  auto complete = weights;
  weights.erase("conv_in.bias");
  EXPECT_THROW(export_to(folder.path() / "out"), std::invalid_argument);
  weights = complete;
  weights["foreign"] = at::zeros({1});
  EXPECT_THROW(export_to(folder.path() / "out"), std::invalid_argument);
  weights = complete;
  weights["conv_in.bias"] = at::zeros({9});
  EXPECT_THROW(export_to(folder.path() / "out"), std::invalid_argument);
}

TEST_F(ExportTest, WhatDiffusersCannotExpressIsRefusedWithTheRemedy) {
  const auto refused = [this](const ModelConfig& config, const DiffusionConfig& diffusion) -> std::string {
    try {
      export_diffusers(folder.path() / "out", config, diffusion, shape, weights);
    } catch (const data::DataError& error) {
      return error.what();
    }
    return "exported";
  };
  ModelConfig scaled = model;
  scaled.residual_scale = 0.5;
  EXPECT_THAT(refused(scaled, {}), testing::HasSubstr("model.residual_scale is 0.5"));
  ModelConfig rescaled = model;
  rescaled.timestep_scale = 0.25;
  EXPECT_THAT(refused(rescaled, {}), testing::HasSubstr("model.timestep_scale is 0.25"));
  ModelConfig unequal = model;
  unequal.attention_resolutions = {8, 4};
  unequal.attention_heads = 4;
  EXPECT_THAT(refused(unequal, {}), testing::HasSubstr("2 at level 0 and 4 in the middle; train with "
                                                       "model.attention_head_dim"));
  EXPECT_THAT(refused(model, {.prediction = PredictionType::edm}), testing::HasSubstr("epsilon, x0 or v"));
  EXPECT_THAT(left_behind(), testing::IsEmpty());
  ModelConfig equal = model;
  equal.attention_heads = 4;  // in the one width that has attention
  EXPECT_EQ(refused(equal, {}), "exported");
}

TEST_F(ExportTest, OutputChannelsMustBeThoseOfTheVariance) {
  const DiffusionConfig learned{.variance_type = VarianceType::learned_range};
  EXPECT_THROW(export_diffusers(folder.path() / "out", model, learned, shape, weights), std::invalid_argument);
  weights["conv_out.weight"] = at::zeros({2, 8, 3, 3});
  weights["conv_out.bias"] = at::zeros({2});
  export_diffusers(folder.path() / "out", model, learned, shape, weights);
  EXPECT_THAT(left_behind(), testing::ElementsAre("out"));
}

}  // namespace
}  // namespace perrin::trainer
