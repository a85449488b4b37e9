// Every format of quant_types.inc.
#pragma once

#include "quant/floats.h"
#include "quant/integers.h"
#include "quant/q4_0.h"
#include "quant/q4_k.h"
#include "quant/q5_k.h"
#include "quant/q6_k.h"
#include "quant/q8_0.h"
