#include "trainer/diffusion/objective.hpp"

#include <ATen/ATen.h>

#include <stdexcept>

namespace perrin::trainer {

at::Tensor epsilon_loss_per_sample(const at::Tensor& eps_hat, const at::Tensor& eps) {
  if (eps_hat.sizes() != eps.sizes()) {
    throw std::invalid_argument("eps_hat and eps differ in shape: " + c10::str(eps_hat.sizes()) + " and " +
                                c10::str(eps.sizes()));
  }
  return at::mse_loss(eps_hat, eps, at::Reduction::None).mean({1, 2, 3});
}

}  // namespace perrin::trainer
