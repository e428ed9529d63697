// Every loss of losses.h, for the level file that includes this (after its lanes).
#pragma once
#include "loss/log_loss-inl.h"
#include "loss/squared_error-inl.h"
