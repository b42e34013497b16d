"""`describe_api`: the service in OpenAPI 3.1; tests hold every answer to it."""

from __future__ import annotations

from typing import Any, get_args

from anyregion import __version__
from anyregion.scoring import Score
from anyregion.serve.options import ServeOptions
from anyregion.serve.requests import MOST_NAMES
from anyregion.serve.service import MOST_FOUND
from anyregion.serve.xanylabeling import MODELS, PREFIX

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
BOX: Schema = {
    "type": "array",
    "description": "x0, y0, x1, y1 in pixels of the upright image",
    "items": {"type": "number"},
    "minItems": 4,
    "maxItems": 4,
}
POINTS: Schema = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
}
POINT_LABELS: Schema = {"type": "array", "items": {"enum": [0, 1]}}
RLE: Schema = {
    "type": "object",
    "description": "COCO's run-length code of a mask of the whole image",
    "required": ["size", "counts"],
    "properties": {
        "size": {"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2},
        "counts": {"oneOf": [STRING, {"type": "array", "items": COUNT}]},
    },
}
POLYGONS: Schema = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
REGION_ID: Schema = {"type": ["integer", "string"]}
VOCABULARY: Schema = {
    "description": "names; or the name of a kept vocabulary or a built-in list; null or left out: "
    "the names that the model knows",
    "type": ["array", "string", "null"],
    "items": STRING,
}


def describe_api(options: ServeOptions) -> Schema:
    """The description, with the limits of this service."""
    prompt = {
        "id": REGION_ID,
        "box": {**BOX, "type": ["array", "null"]},
        "points": POINTS,
        "labels": {**POINT_LABELS, "description": "of the points: 1 foreground, 0 background"},
        "mask": {"oneOf": [RLE, POLYGONS]},
        "score": SHARE,
    }
    how = {
        "vocabulary": {**VOCABULARY, "maxItems": options.max_names},
        "top_k": {"type": "integer", "minimum": 1, "maximum": MOST_NAMES, "default": 5},
        "masks": {"type": "boolean", "default": False},
        "score": {"type": ["string", "null"], "enum": [*get_args(Score), None]},
        "min_score": {**SHARE, "default": 0, "description": "regions that score less are refused"},
    }
    named = {
        "id": REGION_ID,
        "box": BOX,
        "label": STRING,
        "score": SHARE,
        "labels": {"type": "array", "items": STRING},
        "scores": {"type": "array", "items": SHARE},
        "refused": {"type": "boolean"},
        "none": {**SHARE, "description": "of a taught vocabulary: none of these"},
        "points": POINTS,
        "point_labels": POINT_LABELS,
        "mask": RLE,
        "mask_score": {"type": "number"},
        "objectness": SHARE,
    }
    schemas: Schema = {
        "Error": _object(
            {"error": _object({"code": STRING, "message": STRING}, "code", "message")}, "error"
        ),
        "Health": _object(
            {"status": {"enum": ["loading", "ok", "failed"]}, "version": STRING},
            "status", "version",
        ),
        "Image": _object(
            {"id": {**STRING, "pattern": "^[0-9a-f]{64}$"}, "width": COUNT, "height": COUNT},
            "id", "width", "height",
        ),
        "Region": _object(prompt),
        "NamedRegion": _object(named, "id", "box", "label", "score", "labels", "scores", "refused"),
        "FoundRegion": _object(
            {"id": REGION_ID, "box": BOX, "objectness": SHARE}, "id", "box", "objectness"
        ),
        "NamingRequest": _object(
            {
                "regions": {
                    "type": "array", "items": _ref("Region"), "maxItems": options.max_regions
                },
                **how,
            },
            "regions",
        ),
        "NamedRegions": _object(
            {"image": STRING, "regions": {"type": "array", "items": _ref("NamedRegion")}},
            "image", "regions",
        ),
        "FindRequest": _object(
            {
                "image": STRING,
                "most": {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_FOUND},
                "min_objectness": {**SHARE, "type": ["number", "null"]},
                **how,
            },
            "image",
        ),
        "FoundRegions": _object(
            {
                "image": STRING,
                "regions": {
                    "type": "array",
                    "items": {"anyOf": [_ref("FoundRegion"), _ref("NamedRegion")]},
                },
            },
            "image", "regions",
        ),
        "Vocabularies": _object(
            {
                "vocabularies": {"type": "array", "items": STRING},
                "built_in": {"type": "object", "additionalProperties": COUNT},
            },
            "vocabularies", "built_in",
        ),
        "VocabularyRequest": _object(
            {"names": {"type": "array", "items": STRING, "minItems": 1,
                       "maxItems": options.max_names}},
            "names",
        ),
        "Vocabulary": _vocabulary(),
        "TeachRequest": _object(
            {
                "vocabulary": STRING,
                "corrections": {"type": "array", "items": _ref("Correction")},
                "forget": {
                    "type": "array",
                    "items": _object({"image": STRING, "region": REGION_ID}, "image"),
                },
            },
            "vocabulary",
        ),
        "Correction": _object(
            {
                "image": STRING,
                "name": STRING,
                "regions": {
                    "type": "array",
                    "maxItems": options.max_regions,
                    "items": _object({**prompt, "label": {"type": ["string", "null"]}}, "label"),
                },
            },
            "image", "regions",
        ),
        "Taught": _vocabulary(added=COUNT),
        "Models": _object(
            {
                "models": {
                    "type": "array",
                    "items": _object(
                        {
                            "name": STRING,
                            "names": {"type": ["integer", "null"]},
                            "score": {"enum": list(get_args(Score))},
                            "licence": {"type": ["string", "null"]},
                        },
                        "name", "names", "score", "licence",
                    ),
                }
            },
            "models",
        ),
        **_x_anylabeling_schemas(options),
    }  # fmt: skip
    image, name = _parameter("image"), _parameter("name")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "anyregion",
            "version": __version__,
            "description": "Names any region of any image in any words, on this machine.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/health": {"get": _operation("Whether the model is loaded", "Health", open_to=True)},
            "/metrics": {
                "get": {
                    "summary": "Counts and times for Prometheus",
                    "responses": {"200": {"description": "text", "content": {"text/plain": {}}}},
                }
            },
            "/openapi.json": {
                "get": {
                    "summary": "This description",
                    "responses": {
                        "200": {"description": "OpenAPI", "content": {"application/json": {}}}
                    },
                }
            },
            "/v1/models": {"get": _operation("The model that answers", "Models")},
            "/v1/images": {
                "post": {
                    **_operation("Send an image's file; its SHA-256 is its id", "Image"),
                    "requestBody": {
                        "required": True,
                        "content": {"image/*": {}, "application/octet-stream": {}},
                    },
                }
            },
            "/v1/images/{image}": {
                "parameters": [image],
                "get": _operation("Whether an image is here", "Image"),
            },
            "/v1/images/{image}/regions": {
                "parameters": [image],
                "post": _operation("Name regions", "NamedRegions", body="NamingRequest"),
            },
            "/v1/regions/find": {
                "post": _operation(
                    "Find regions; with `vocabulary`, name them", "FoundRegions", body="FindRequest"
                )
            },
            "/v1/vocabularies": {"get": _operation("Vocabularies by name", "Vocabularies")},
            "/v1/vocabularies/{name}": {
                "parameters": [name],
                "get": _operation("A kept vocabulary", "Vocabulary"),
                "put": _operation(
                    "Keep names under a name", "Vocabulary", body="VocabularyRequest", status="201"
                ),
                "delete": {
                    **_operation("Remove it, and all it was taught", None, status="204"),
                },
            },
            "/v1/teach": {
                "post": _operation(
                    "Correct regions; answers with this vocabulary know at once",
                    "Taught",
                    body="TeachRequest",
                )
            },
            **_x_anylabeling_paths(options),
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "Token"},
            },
        },
        "security": [] if options.token is None else [{"token": []}],
    }


def _x_anylabeling_schemas(options: ServeOptions) -> Schema:
    """Of the remote dialect of X-AnyLabeling: `Failure` is an answer of status 200."""
    model = {
        "display_name": STRING,
        "widgets": {
            "type": "array",
            "items": _object({"name": STRING, "value": {}}, "name", "value"),
        },
        "params": {"type": "object"},
        "batch_processing_mode": {"enum": ["default", "text_prompt"]},
    }
    shape = {
        "label": STRING,
        "shape_type": {"enum": ["rectangle", "polygon"]},
        "points": POINTS,
        "score": SHARE,
        "attributes": {"type": "object"},
        "description": {"type": ["string", "null"]},
        "difficult": {"type": "boolean"},
        "direction": {"type": "number"},
        "flags": {"type": ["object", "null"]},
        "group_id": {"type": ["integer", "null"]},
        "kie_linking": {"type": "array"},
    }
    mark = {
        "type": {**STRING, "description": "point or rectangle; others are left out"},
        "label": {"description": "1: of the thing (where it is left out, too); else not of it"},
        "data": {"description": "x and y, or x0, y0, x1, y1, in pixels of the upright image"},
    }
    params = {
        "marks": {
            "type": ["array", "null"],
            "items": {"type": "object", "properties": mark},
            "maxItems": options.max_regions,
        },
        "text_prompt": {
            "type": ["string", "null"],
            "description": "names with commas or periods between them, or the name of a vocabulary",
        },
        "conf_threshold": {**SHARE, "default": 0},
    }
    request = {
        "model": {"enum": list(MODELS)},
        "image": {
            **STRING,
            "description": "a file in base64, with or without data:image/...;base64,",
        },
        "params": {"type": ["object", "null"], "properties": params},
    }
    described = {name: _object(model, *model) for name in MODELS}
    return {
        "XAnyLabelingFailure": _object(
            {"success": {"const": False},
             "error": _object({"code": STRING, "message": STRING}, "code", "message")},
            "success", "error",
        ),
        "XAnyLabelingHealth": _object(
            {"status": {"const": "healthy"}, "models_loaded": COUNT, "timestamp": STRING},
            "status", "models_loaded", "timestamp",
        ),
        "XAnyLabelingModels": _success(_object(described, *MODELS)),
        "XAnyLabelingModel": _success(
            _object({"model_id": {"enum": list(MODELS)}, **model}, "model_id", *model)
        ),
        "XAnyLabelingRequest": {
            "type": "object", "properties": request, "required": ["model", "image"],
        },
        "XAnyLabelingShapes": _success(
            _object(
                {"shapes": {"type": "array", "items": _object(shape, *shape)},
                 "description": STRING},
                "shapes", "description",
            )
        ),
    }  # fmt: skip


def _x_anylabeling_paths(options: ServeOptions) -> Schema:
    """Its routes, of which all but `health` take the token as X-AnyLabeling's `api_key`, too."""

    def operation(summary: str, answer: str, **more: Any) -> Schema:
        made = _operation(f"X-AnyLabeling: {summary}", answer, **more)
        if not more.get("open_to") and not answer.endswith("Models"):
            either = {"anyOf": [_ref(answer), _ref("XAnyLabelingFailure")]}
            made["responses"]["200"]["content"] = {"application/json": {"schema": either}}
        if not more.get("open_to") and options.token is not None:
            made["security"] = [{"token": []}, {"api_key": []}]
        return made

    predict = operation("shapes of an image", "XAnyLabelingShapes", body="XAnyLabelingRequest")
    predict["responses"]["503"] = {
        "description": "too many requests wait",
        "content": {"application/json": {"schema": _object({"detail": STRING}, "detail")}},
    }
    return {
        f"{PREFIX}/health": {"get": operation("that it runs", "XAnyLabelingHealth", open_to=True)},
        f"{PREFIX}/v1/models": {"get": operation("its models", "XAnyLabelingModels")},
        f"{PREFIX}/v1/models/{{model}}/info": {
            "parameters": [_parameter("model")],
            "get": operation("one of them", "XAnyLabelingModel"),
        },
        f"{PREFIX}/v1/predict": {"post": predict},
    }


def _success(data: Schema) -> Schema:
    return _object({"success": {"const": True}, "data": data}, "success", "data")


def _vocabulary(**more: Schema) -> Schema:
    properties = {
        "name": STRING,
        "names": {"type": "array", "items": STRING},
        "counts": {"type": "array", "items": COUNT},
        "corrections": COUNT,
        **more,
    }
    return _object(properties, *properties)


def _object(properties: Schema, *required: str) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": _ref(name)}}


def _parameter(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": STRING}


def _operation(
    summary: str,
    answer: str | None,
    *,
    body: str | None = None,
    status: str = "200",
    open_to: bool = False,
) -> Schema:
    """One method of a route; every error has the same form."""
    operation: Schema = {
        "summary": summary,
        "responses": {
            status: {
                "description": "done",
                **({} if answer is None else {"content": _json(answer)}),
            },
            "default": {"description": "what is wrong, and what to do", "content": _json("Error")},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    if open_to:
        operation["security"] = []
    return operation
