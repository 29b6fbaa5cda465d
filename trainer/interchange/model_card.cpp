#include "trainer/interchange/model_card.hpp"

#include <fmt/format.h>

#include "trainer/interchange/diffusers_config.hpp"

namespace perrin::trainer {
namespace {

/// Five lines of Python. @param steps  50 as diffusers' examples, or all there are
std::string snippet(const ModelConfig& model, const DiffusionConfig& diffusion, std::int64_t steps) {
  if (model.num_classes > 0)
    return fmt::format(
        "from diffusers import DiffusionPipeline\n"
        "\n"
        "pipeline = DiffusionPipeline.from_pretrained(\".\", trust_remote_code=True)  # reads pipeline.py of this "
        "folder\n"
        "images = pipeline(class_labels=[0, {}],{} num_inference_steps={}).images\n"
        "images[0].save(\"sample.png\")\n",
        model.num_classes - 1, has_null_class(model) ? " guidance_scale=2.0," : "", steps);
  if (needs_own_pipeline(model, diffusion))
    return fmt::format(
        "from diffusers import DiffusionPipeline\n"
        "\n"
        "pipeline = DiffusionPipeline.from_pretrained(\".\", custom_pipeline=\"pipeline\", trust_remote_code=True)\n"
        "images = pipeline(batch_size=2, num_inference_steps={}).images\n"
        "images[0].save(\"sample.png\")\n",
        steps);
  return fmt::format(
      "from diffusers import DDPMPipeline\n"
      "\n"
      "pipeline = DDPMPipeline.from_pretrained(\".\")\n"
      "images = pipeline(batch_size=2, num_inference_steps={}).images\n"
      "images[0].save(\"sample.png\")\n",
      steps);
}

}  // namespace

std::string model_card(const ModelFacts& facts, const ModelConfig& model, const DiffusionConfig& diffusion) {
  constexpr std::int64_t kFewSteps = 50;
  std::string card = fmt::format(
      "---\n"
      "# license: name one before you publish this model\n"
      "library_name: diffusers\n"
      "pipeline_tag: unconditional-image-generation\n"
      "tags:\n"
      "- ddpm\n"
      "- perrin\n"
      "---\n"
      "\n"
      "# {}\n"
      "\n"
      "A denoising diffusion model, trained and exported by perrin.\n"
      "\n"
      "| | |\n"
      "|---|---|\n",
      facts.title);
  for (const auto& [name, value] : facts.rows) card += fmt::format("| {} | {} |\n", name, value);
  card += fmt::format("\n## Use\n\nIn this folder:\n\n```python\n{}```\n",
                      snippet(model, diffusion, std::min(kFewSteps, diffusion.timesteps)));
  if (!facts.config.empty()) card += "\n## Configuration\n\n```toml\n" + facts.config + "```\n";
  return card;
}

}  // namespace perrin::trainer
