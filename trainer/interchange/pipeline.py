"""Samples a denoising diffusion model that is told class labels, or that predicts its variance too."""

import inspect

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor


class PerrinPipeline(DiffusionPipeline):
    """DDPMPipeline with class labels, classifier-free guidance, and any scheduler for networks of learned variance.

    Args:
        unet: predicts eps, x_0 or v as the scheduler's prediction_type says and, with twice the channels of an image, the variance.
        scheduler: DDPMScheduler uses that variance; others (DDIMScheduler, DPMSolverMultistepScheduler) take the prediction alone.
        null_class: the label that stands for no label, which guidance needs; None: the network knows none.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: DDPMScheduler, null_class: int | None = None):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(null_class=null_class)

    @torch.no_grad()
    def __call__(self, class_labels=None, batch_size=1, guidance_scale=1.0, generator=None, num_inference_steps=50, latents=None,
                 output_type="pil", return_dict=True):
        """Draws images.

        Args:
            class_labels: a list or tensor of one label for each image, or one label for all; None for a network without classes.
            batch_size: number of images where no list of labels says it.
            guidance_scale: unconditional + scale * (conditional - unconditional); 1: none (Ho & Salimans 2022).
            generator: torch.Generator, or a list of one for each image.
            num_inference_steps: of the scheduler.
            latents: standard normals [N, C, H, W] to begin with.
            output_type: "pil", "np" (float32 [N, H, W, C] in [0, 1]) or "pt" (float32 [N, C, H, W] in [0, 1]).
        """
        labels = self._labels(class_labels, batch_size)
        guided = guidance_scale != 1.0
        if guided and self.config.null_class is None:
            raise ValueError("guidance_scale needs a network that was trained without labels too (null_class)")
        image = self._noise(batch_size if labels is None else len(labels), generator, latents)
        self.scheduler.set_timesteps(num_inference_steps, device=image.device)
        # By its class: other schedulers keep this key of a DDPMScheduler that they were made from, and do not follow it.
        takes_variance = isinstance(self.scheduler, DDPMScheduler) and self.scheduler.config.variance_type == "learned_range"
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        step_arguments = {"generator": generator} if takes_generator else {}
        for t in self.progress_bar(self.scheduler.timesteps):
            model_input = self.scheduler.scale_model_input(image, t).to(self.unet.dtype)
            prediction, variance = self._predict(model_input, t, labels)
            if guided:
                unconditional, _ = self._predict(model_input, t, torch.full_like(labels, self.config.null_class))
                prediction = unconditional + guidance_scale * (prediction - unconditional)
            if takes_variance:
                prediction = torch.cat([prediction, variance], dim=1)
            image = self.scheduler.step(prediction, t, image, **step_arguments).prev_sample
        image = (image / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            image = image.cpu().permute(0, 2, 3, 1).numpy()
            if output_type == "pil":
                image = self.numpy_to_pil(image)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=image) if return_dict else (image,)

    def _labels(self, class_labels, batch_size):
        """[N] int64, or None for a network without classes."""
        classes = self.unet.config.num_class_embeds
        if (class_labels is None) != (classes is None):
            raise ValueError("the network has no classes" if classes is None else f"the network needs class_labels, 0 to {classes - 1}")
        if classes is None:
            return None
        labels = torch.as_tensor(class_labels, dtype=torch.long, device=self._execution_device)
        labels = labels.expand(batch_size) if labels.dim() == 0 else labels
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"class_labels are 0 to {classes - 1}")
        return labels

    def _noise(self, count, generator, latents):
        """float32 [N, C, H, W], whatever the type of the network."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (count, self.unet.config.in_channels, height, width)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents are {list(shape)}, not {list(latents.shape)}")
        return latents.to(self._execution_device) * self.scheduler.init_noise_sigma

    def _predict(self, x, t, labels):
        """float32 prediction [N, C, H, W], and what the network says of the variance: as many channels, or none."""
        return self.unet(x, t, class_labels=labels).sample.float().split_with_sizes(
            [x.shape[1], self.unet.config.out_channels - x.shape[1]], dim=1)
