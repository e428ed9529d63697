// Every point-wise loss of losses.h, for the level file that includes this (after its lanes).
#pragma once
#include "loss/epsilon_insensitive-inl.h"
#include "loss/hinge-inl.h"
#include "loss/huber-inl.h"
#include "loss/log_loss-inl.h"
#include "loss/modified_huber-inl.h"
#include "loss/perceptron-inl.h"
#include "loss/squared_epsilon_insensitive-inl.h"
#include "loss/squared_error-inl.h"
#include "loss/squared_hinge-inl.h"

namespace gradfold {
namespace {

// A loss whose evaluate(z, y, ..) is finish(z, prepare(z), y, ..), for kernels that do it in two loops.
template <class LossType, class L>
concept Prepares = requires(typename L::V z) { LossType::template prepare<L>(z); };

}  // namespace
}  // namespace gradfold
