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
